"""Seconds to select: S2L and selection by coverage, for a growing number of examples.

    python benchmarks/selection.py math_pool.jsonl

For each size, that many lines are drawn from the corpus and one proxy is trained on them. Each
selector then takes 11%; stages that selectors share are made once.

- `scoring`: the passes a selector needs (S2L: losses at all checkpoints; the others: features at
  the last one).
- `grouping`: k-means, or the greedy order. `drawing`: the subset.
- `proxy`: the training that all need.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import machine
from benchmarks.comparison import PROMPT, PROXY
from s2l_ray.config import RunConfig, SelectionConfig, validate
from s2l_ray.execution import connect as driver
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import choose_subset, prepare

SELECTORS = ["s2l", "k_center", "facility_location"]


def settings(folder: Path, corpus: Path, arguments: argparse.Namespace) -> RunConfig:
    return validate(
        {
            "name": "selection",
            "run_dir": str(folder / "run"),
            "corpus": {"path": str(corpus)},
            "prompt": PROMPT,
            "proxy": {
                "model": {"architecture": PROXY, "tokenizer_vocab": 2048},
                "epochs": 1,
                "num_checkpoints": arguments.checkpoints,
                "global_batch_size": 64,
                "micro_batch_size": 32,
                "learning_rate": 0.002,
                "workers": {"num_workers": 2},
            },
            "trajectories": {"workers": {"num_workers": 2}},
            "clusters": {"n_clusters": arguments.n_clusters, "stability": False},
        }
    )


def seconds_of(run: Run, selector: str) -> dict[str, Any]:
    """Choose with a selector; return its row."""
    choice = SelectionConfig(selector=selector, budget="11%")
    info = choose_subset(run, choice).info
    took = {entry["stage"]: entry["seconds"] for entry in run.times}
    if selector == "s2l":
        grouping, scoring = "clusters", took["losses"] + took["trajectories"]
    else:
        grouping, scoring = f"rankings/{selector}", took["details/final"]
    drawing = took[f"selections/{selection_name(choice.selector, choice.seed)}"]
    return {
        "chosen": info["examples"],
        "scoring": scoring,
        "grouping": took[grouping],
        "drawing": drawing,
        "all": scoring + took[grouping] + drawing,
        "proxy": took["proxy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="JSON lines")
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 28_930])
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--n-clusters", type=int, default=100)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    arguments = parser.parse_args()
    driver.quiet()
    with open(arguments.corpus) as file:
        lines = list(file)
    rows: list[dict[str, Any]] = []
    for size in sorted({min(size, len(lines)) for size in arguments.examples}):
        with tempfile.TemporaryDirectory() as name:
            corpus = Path(name, "corpus.jsonl")
            corpus.write_text("".join(random.Random(0).sample(lines, size)))
            with Run.start(settings(Path(name), corpus, arguments)) as run:
                prepare(run)
                run.get(run.plan.trajectories)
                for selector in SELECTORS:
                    row = {"examples": size, "selector": selector} | seconds_of(run, selector)
                    rows.append(row)
                    print(row, flush=True)
    print(machine.table(rows, list(rows[0])))
    machine.write(arguments.json, vars(arguments), rows)


if __name__ == "__main__":
    main()
