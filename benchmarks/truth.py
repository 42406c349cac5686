"""What selectors do where the truth about each example is known: the common part of planted.py and
bridge.py.

A row has a `pattern` and tells whether it is `wrong`; its kind is large or small by its pattern, or
wrong. Held-out rows have their pattern as source.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow as pa

from benchmarks import machine
from benchmarks.planted_corpus import write, write_rows
from s2l_ray.analysis import verdicts
from s2l_ray.analysis.paired import Outcome
from s2l_ray.analysis.paired import Row as Compared
from s2l_ray.analysis.statistics import interval
from s2l_ray.config import RunConfig, SelectionConfig, validate
from s2l_ray.execution import connect as driver
from s2l_ray.formatting import plus_minus
from s2l_ray.pipeline.comparison import compare, seeded
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import choose_subset
from s2l_ray.report import comparison_text
from s2l_ray.report.comparison_tables import difference
from s2l_ray.scoring.trajectories import losses_array
from s2l_ray.selection.kinds import Cluster
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest

KINDS = ("large", "small", "wrong")
COVERED = 10
ONE = {"num_workers": 1, "cpus_per_worker": 1}
Row = dict[str, Any]


class Study(NamedTuple):
    """A corpus of known truth. large, small: its patterns. purpose: rows of selection.toward."""

    name: str
    corpus: list[Row]
    heldout: list[Row]
    large: Sequence[str]
    small: Sequence[str]
    purpose: Sequence[Row] = ()

    def kind(self, row: Row) -> str:
        return "wrong" if row["wrong"] else "large" if row["pattern"] in self.large else "small"


def settings(
    study: Study,
    folder: Path,
    corpus: Path,
    heldout: Path,
    arguments: argparse.Namespace,
    *,
    max_length: int,
    vocabulary: int,
    epochs: tuple[int, int],
) -> RunConfig:
    """epochs: of the proxy, which keeps a checkpoint after each, and of the targets."""

    def training(model_type: str, width: int, layers: int, **more: Any) -> dict[str, Any]:
        shape = {"model_type": model_type, "hidden_size": width, "num_hidden_layers": layers,
                 "num_attention_heads": 4, "intermediate_size": 4 * width,
                 "max_position_embeddings": max_length}  # fmt: skip
        return {"model": {"architecture": shape, "tokenizer_vocab": vocabulary}, "workers": ONE,
                "learning_rate": 0.002, **more}  # fmt: skip

    toward = {}
    if any("toward" in name for name in arguments.selectors):
        write_rows(folder / "purpose.jsonl", study.purpose)
        toward = {"selection": {"toward": str(folder / "purpose.jsonl")}}
    return validate(
        toward
        | {
            "name": study.name,
            "run_dir": str(folder / "run"),
            "corpus": {"path": str(corpus), "num_parts": 2},
            "prompt": {"template": "plain", "max_length": max_length},
            "proxy": training(
                "gpt_neox", 64, 2, epochs=epochs[0], num_checkpoints=epochs[0],
                global_batch_size=64, micro_batch_size=64,
            ),
            "trajectories": {"workers": {"num_workers": 2}},
            "clusters": {"n_clusters": arguments.clusters, "stability": False},
            "target": training(
                "llama", 128, 2, epochs=epochs[1], global_batch_size=32, micro_batch_size=32
            ),
            "evaluation": {"files": {study.name: str(heldout)}, "targets_at_once": 2},
            "compare": {
                "selectors": arguments.selectors,
                "budgets": ["10%"],
                "seeds": list(range(arguments.seeds)),
                "full": [],
                "worth": [],
                "untuned": False,
            },
        }
    )  # fmt: skip


class Truth:
    """The rows of a corpus stage by example_id, with their pattern and kind."""

    def __init__(self, run: Run, study: Study) -> None:
        self.store, self.study, rows = run.store, study, study.corpus
        corpus = self.read(run.done["corpus"], "example_id", "row")
        numbers = zip(corpus["example_id"].to_pylist(), corpus["row"].to_pylist(), strict=True)
        self.rows = {example_id: rows[number - 1] for example_id, number in numbers}

    def read(self, stage: Manifest, *columns: str) -> pa.Table:
        return pa.concat_tables(
            self.store.read_part(stage.folder, part, list(columns)) for part in stage.parts
        )

    def of(self, table: pa.Table) -> list[Row]:
        return [self.rows[example_id] for example_id in table["example_id"].to_pylist()]

    def of_subset(self, subset: Manifest) -> Mapping[str, float]:
        """Count chosen examples by kind, and covered small patterns."""
        chosen = self.of(self.read(subset, "example_id"))
        kinds = Counter(map(self.study.kind, chosen))
        right = Counter(row["pattern"] for row in chosen if not row["wrong"])
        covered = sum(right[pattern] >= COVERED for pattern in self.study.small)
        return {kind: kinds[kind] for kind in KINDS} | {"covered": covered}

    def of_clusters(self, clusters: Manifest) -> dict[str, float]:
        """purity, and for each kind the number of clusters that hold mainly this kind."""
        table = self.read(clusters, "example_id", "cluster_id")
        patterns: dict[int, Counter[str]] = {}
        kinds: dict[int, Counter[str]] = {}
        for cluster, row in zip(table["cluster_id"].to_pylist(), self.of(table), strict=True):
            patterns.setdefault(cluster, Counter())[row["pattern"]] += 1
            kinds.setdefault(cluster, Counter())[self.study.kind(row)] += 1
        mainly = Counter(counts.most_common(1)[0][0] for counts in kinds.values())
        most = sum(counts.most_common(1)[0][1] for counts in patterns.values())
        return {"purity": most / table.num_rows} | {f"mainly {k}": mainly[k] for k in KINDS}

    def of_losses(self, trajectories: Manifest) -> dict[str, list[float]]:
        """Mean loss of each kind present, at each checkpoint."""
        table = self.read(trajectories, "example_id", "losses")
        losses_NT, kinds = losses_array(table), [self.study.kind(row) for row in self.of(table)]
        return {
            kind: losses_NT[[k == kind for k in kinds]].mean(axis=0, dtype=float).tolist()
            for kind in KINDS
            if kind in kinds
        }


def look(
    run: Run, study: Study, records: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, list[dict[str, float]]], list[dict[str, Any]]]:
    """Contents of the subsets and clusters of a finished comparison (selector -> one dictionary per
    seed), and the proxy's losses per seed."""
    truth, config = Truth(run, study), run.config
    found: dict[str, list[dict[str, float]]] = {name: [] for name in config.compare.selectors}
    losses = []
    for seed in config.compare.seeds:
        view = run.view(seeded(config, seed, config.compare.selectors))
        losses.append(truth.of_losses(view.get(view.plan.trajectories)))
        mine = {r["method"]: r for r in records if r["selection_seed"] == seed}
        for name in mine:
            budget = config.compare.budgets[0] if name == "random" else mine["random"]["examples"]
            choice = SelectionConfig(selector=name, budget=budget, seed=seed)
            held = dict(truth.of_subset(choose_subset(view, choice).manifest))
            if isinstance(selector_named(name), Cluster):
                held |= truth.of_clusters(view.get(view.plan.groups(choice)))
            found[name].append(held)
    return found, losses


def losses_of(records: Sequence[Mapping[str, Any]], patterns: Sequence[str]) -> list[Any]:
    """The held-out loss on these patterns, one table row per selector."""
    arms = [
        Outcome(
            record["method"], record["budget"], record["selection_seed"], record["training_seed"],
            {"loss": fmean(record["by_source"][pattern] for pattern in patterns)},
        )
        for record in records
    ]  # fmt: skip
    return verdicts.table(arms, "loss")


def row_of(
    name: str, held: Sequence[Mapping[str, float]], small: Compared, large: Compared
) -> dict[str, Any]:
    """A selector's row: means ± standard errors over seeds, differences with 95% intervals."""

    def mean(figure: str) -> str:
        values = [each[figure] for each in held]
        return plus_minus(*interval(values)[:2])

    row = {"selector": name} | {kind: mean(kind) for kind in KINDS}
    row["small patterns covered"] = mean("covered")
    for kind, losses in (("small", small), ("large", large)):
        row[f"loss, {kind}"] = plus_minus(losses.mean, losses.standard_error)
        row[f"loss, {kind} − random"] = difference(losses)
    if "purity" in held[0]:
        row["purity"] = f"{fmean(each['purity'] for each in held):.2f}"
        counts = [f"{fmean(each[f'mainly {kind}'] for each in held):.0f}" for kind in KINDS]
        row["clusters of mostly large/small/wrong"] = "/".join(counts)
    return row


def parser(description: str, selectors: list[str]) -> argparse.ArgumentParser:
    """Return the options that all studies have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=3, help="a verdict takes 6 or more")
    parser.add_argument("--corpus-seed", type=int, default=0)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--selectors", nargs="+", metavar="NAME", default=selectors)
    parser.add_argument(
        "--folder", metavar="DIR", help="keep corpus and run there; the same command then goes on"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    return parser


def measure(study: Study, arguments: argparse.Namespace, **shape: Any) -> None:
    """Run the comparison, print its tables and write them. shape: see `settings`."""
    driver.quiet()
    kept = arguments.folder
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as name:
        Path(name).mkdir(parents=True, exist_ok=True)
        paths = write(Path(name), study.corpus, study.heldout)
        with Run.start(settings(study, Path(name), *paths, arguments, **shape)) as run:
            told = partial(comparison_text.tell_progress, run.config)
            records = run.finish(lambda run: compare(run, told))
            records = [record for record in records if "too_few" not in record]
            for record in records:  # long, and in the run directory
                record.pop("influences", None)
            found, proxies = look(run, study, records)
    of_small, of_large = losses_of(records, study.small), losses_of(records, study.large)
    rows = [
        row_of(small.method, found[small.method], small, large)
        for small, large in zip(of_small, of_large, strict=True)
    ]
    curves = {kind: [fmean(at) for at in zip(*(each[kind] for each in proxies), strict=True)]
              for kind in proxies[0]}  # fmt: skip
    steps = [f"{number + 1}" for number in range(len(curves["small"]))]
    print("the proxy's mean loss at its checkpoints, by kind")
    print(machine.table(
        [{"kind": kind} | dict(zip(steps, curve, strict=True)) for kind, curve in curves.items()],
        ["kind", *steps],
    ))  # fmt: skip
    print(machine.table(rows, list(dict.fromkeys(column for row in rows for column in row))))
    for kind, losses in (("small", of_small), ("large", of_large)):
        said = verdicts.conclusions(losses)
        said += verdicts.caveats(losses, verdicts.num_tested([losses]))
        print(f"loss on held-out examples of the {kind} patterns:", *said)
    machine.write(
        arguments.json, vars(arguments), rows, found=found, proxy_losses=proxies, records=records
    )
