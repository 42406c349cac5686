"""A corpus with known truth: large patterns, small patterns, wrong answers.

A pattern is named by its keyword. It maps each of six letters (a to p) to another, by its own
table:

    weave k e d f c a
    = m h f n b o

Only the examples of a pattern reveal its table. The few large patterns are near-duplicates: each
repeats one list of letters with two letters redrawn. In the many small patterns all letters are
drawn. A wrong answer is wrong in every letter. Sources are coarser than patterns: each source has
one large pattern and eight small ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

SOURCES = ["north", "east", "south"]
LARGE = ["carry", "move", "send"]
SMALL = [
    "bend", "braid", "carve", "chop", "coil", "comb", "crimp", "dye", "felt", "fold", "fuse",
    "gild", "hem", "knit", "lace", "mend", "mold", "pare", "pleat", "press", "rivet", "sand",
    "splice", "weave",
]  # fmt: skip
LETTERS = "abcdefghijklmnop"
LENGTH, CHANGED = 6, 2  # letters per example; letters redrawn in a large pattern
SMALL_SHARE, WRONG_SHARE = 0.25, 0.05
HELDOUT = 20  # examples per pattern
PURPOSE = 5  # further examples per small pattern: what a target should be good at
SMALLEST, LARGEST = 600, 12_000  # examples; beyond, large patterns run out of near-duplicates

Row = dict[str, Any]


def sizes(num_examples: int) -> dict[str, int]:
    """Examples per pattern: those of small patterns rise evenly from half to one and a half times
    their mean; large patterns share the rest."""
    mean = SMALL_SHARE * num_examples / len(SMALL)
    small = [round(mean * (0.5 + place / (len(SMALL) - 1))) for place in range(len(SMALL))]
    rest, more = divmod(num_examples - sum(small), len(LARGE))
    large = [rest + (place < more) for place in range(len(LARGE))]
    return dict(zip([*LARGE, *SMALL], large + small, strict=True))


def generate(
    num_examples: int = 6000,
    *,
    seed: int = 0,
    pattern_as_source: bool = False,
    wrong_share: float = WRONG_SHARE,
) -> tuple[list[Row], list[Row]]:
    """The corpus, shuffled, and the held-out examples: rows {"instruction", "output", "source",
    "pattern", "wrong"}, no instruction twice in both together.

    wrong_share of each pattern is wrong, of the held-out ones none; their source is the pattern.
    The rows depend on the arguments alone.
    """
    corpus, heldout, _ = generate_with_purpose(
        num_examples, seed=seed, pattern_as_source=pattern_as_source, wrong_share=wrong_share
    )
    return corpus, heldout


def generate_with_purpose(
    num_examples: int = 6000,
    *,
    seed: int = 0,
    pattern_as_source: bool = False,
    wrong_share: float = WRONG_SHARE,
) -> tuple[list[Row], list[Row], list[Row]]:
    """What `generate` returns, and the purpose: PURPOSE right examples of each small pattern, which
    neither has."""
    if not SMALLEST <= num_examples <= LARGEST:
        raise ValueError(f"num_examples: got {num_examples}, expected {SMALLEST} to {LARGEST:,}")
    corpus: list[Row] = []
    heldout: list[Row] = []
    purpose: list[Row] = []
    for number, (pattern, size) in enumerate(sizes(num_examples).items()):
        rng = Random(f"{seed}/{pattern}")  # a str seeds by SHA-512, whatever PYTHONHASHSEED is
        table = dict(zip(LETTERS, rng.sample(LETTERS, len(LETTERS)), strict=True))
        asked = _lists(rng, CHANGED if pattern in LARGE else LENGTH)
        source = pattern if pattern_as_source else SOURCES[number % len(SOURCES)]
        more = PURPOSE if pattern in SMALL else 0  # after the others, which stay as they are
        for place in range(size + HELDOUT + more):
            letters, wrong = next(asked), place < round(wrong_share * size)
            answer = [table[letter] for letter in letters]
            if wrong:
                answer = [rng.choice(LETTERS.replace(right, "")) for right in answer]
            row = {
                "instruction": " ".join([pattern, *letters]),
                "output": " ".join(["=", *answer]),
                "source": source if place < size else pattern,
                "pattern": pattern,
                "wrong": wrong,
            }
            rows = corpus if place < size else heldout if place < size + HELDOUT else purpose
            rows.append(row)
    Random(seed).shuffle(corpus)
    return corpus, heldout, purpose


def write(folder: Path, corpus: Iterable[Row], heldout: Iterable[Row]) -> tuple[Path, Path]:
    """Both as JSON lines: corpus.jsonl and heldout.jsonl."""
    paths = folder / "corpus.jsonl", folder / "heldout.jsonl"
    for path, rows in zip(paths, (corpus, heldout), strict=True):
        write_rows(path, rows)
    return paths


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _lists(rng: Random, changed: int) -> Iterator[tuple[str, ...]]:
    """Different lists of letters: one with `changed` of its letters redrawn each time."""
    first, seen = rng.choices(LETTERS, k=LENGTH), set[tuple[str, ...]]()
    while True:
        letters = list(first)
        for place in rng.sample(range(LENGTH), changed):
            letters[place] = rng.choice(LETTERS)
        if (found := tuple(letters)) not in seen:
            seen.add(found)
            yield found
