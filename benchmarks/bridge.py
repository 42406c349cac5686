"""Compare selectors on real text with planted imbalance, near-duplicates and wrong answers.

    python benchmarks/bridge.py math_pool.jsonl --wrong-share 0.05

Between planted.py, where everything is made up, and a comparison on a real corpus, where nothing is
known. The file has the fields instruction, output, source and topic. A pattern is a pair of source
and topic with enough rows. Their sizes follow Zipf's law, in order of how many rows they have. The
rows of the three largest are near-duplicates: each stands there five times, with another opening.
A wrong answer is that of another row of the same pattern. HELDOUT rows of each pattern are held
out. A selector takes a tenth.

Columns: head of planted.py. `large` are the three largest patterns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import truth
from benchmarks.truth import Row

DEFAULT = ["random", "random_balanced", "loss_kmeans", "s2l", "s2l_official_clusters",
           "cross_fitted"]  # fmt: skip
HELDOUT = 100
HEAD = 3  # patterns of near-duplicates
OPENINGS = ("", "Question: ", "Solve this. ", "Here is a problem: ", "Answer the following. ")


def patterns_of(lines: Iterable[str]) -> dict[str, list[Row]]:
    """Group rows by source and topic, the largest group first."""
    found: dict[str, list[Row]] = {}
    for line in lines:
        row = json.loads(line)
        pattern = f"{row['source']}/{row['topic']}"
        kept = {name: row[name] for name in ("instruction", "output", "source")}
        found.setdefault(pattern, []).append(kept | {"pattern": pattern, "wrong": False})
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def zipf(count: int, total: int) -> list[int]:
    """Sizes in proportion to 1, 1/2, 1/3, …"""
    whole = sum(1 / rank for rank in range(1, count + 1))
    return [round(total / rank / whole) for rank in range(1, count + 1)]


def generate(
    groups: dict[str, list[Row]], num_examples: int, *, seed: int = 0, wrong_share: float = 0.0
) -> truth.Study:
    """Make the corpus. ValueError if fewer than HEAD + 1 patterns have enough rows."""
    enough = {name: rows for name, rows in groups.items() if len(rows) >= 3 * HELDOUT}
    sizes = zipf(len(enough), num_examples)
    if len(enough) <= HEAD:
        raise ValueError(f"found {len(enough)} patterns of {3 * HELDOUT} rows, expected {HEAD + 1}")
    corpus, heldout = list[Row](), list[Row]()
    for number, ((name, rows), size) in enumerate(zip(enough.items(), sizes, strict=True)):
        rng = Random(f"{seed}/{name}")  # a str seeds by SHA-512, whatever PYTHONHASHSEED is
        rows = rng.sample(rows, len(rows))
        heldout += [row | {"source": name} for row in rows[:HELDOUT]]
        rows = rows[HELDOUT:]
        if number < HEAD:
            rows = [
                row | {"instruction": opening + row["instruction"]}
                for row in rows[: -(-size // len(OPENINGS))]
                for opening in OPENINGS
            ]
        if len(rows) < size:
            raise ValueError(f"{name}: {len(rows)} rows left, expected {size}: lower --examples")
        corpus += with_wrong(rows[:size], round(wrong_share * size), rng)
    Random(seed).shuffle(corpus)
    names = list(enough)
    return truth.Study("bridge", corpus, heldout, names[:HEAD], names[HEAD:])


def with_wrong(rows: list[Row], count: int, rng: Random) -> list[Row]:
    """Give `count` rows the output of the next of them, unless that is the same."""
    found, places = list(rows), rng.sample(range(len(rows)), count if count > 1 else 0)
    for place, other in zip(places, places[1:] + places[:1], strict=True):
        output = rows[other]["output"]
        if output != rows[place]["output"]:
            found[place] = rows[place] | {"output": output, "wrong": True}
    return found


def main() -> None:
    parser = truth.parser(__doc__.partition("\n")[0], DEFAULT)
    parser.add_argument("file", type=Path, help="JSON lines: instruction, output, source, topic")
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--wrong-share", type=float, default=0.05)
    arguments = parser.parse_args()
    with arguments.file.open() as lines:
        groups = patterns_of(lines)
    study = generate(
        groups, arguments.examples, seed=arguments.corpus_seed, wrong_share=arguments.wrong_share
    )
    arguments.file = arguments.file.name
    truth.measure(study, arguments, max_length=160, vocabulary=1024, epochs=(8, 20))


if __name__ == "__main__":
    main()
