"""What `s2l-ray plan` says beside what the run takes, stage by stage.

    python benchmarks/plan.py configs/demo.yaml runs/plan-demo
    python benchmarks/plan.py configs/math-pool.yaml runs/plan-pool corpus.path=math_pool.jsonl
    python benchmarks/plan.py configs/math-pool.yaml runs/plan-large corpus.path=math_pool.jsonl \\
        --rows 250000

The plan comes first, as if the run directory did not exist; then `pipeline` runs. Overrides follow
the run directory. `ratio` is plan / run.

--rows: repeats the corpus's rows, each with a number before its text, up to so many. All of them
are read and tokenized. The proxy trains for a tenth of its steps, and a tenth of the parts are
scored at one checkpoint. Both are extrapolated; the start of workers counts once.

The CPU seconds of the run are those of all its processes, Ray's among them.

The run needs an idle machine. `load` is the load average before the plan, between the two and after
the run; CPUs that others use make both slower, and not equally.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks import machine
from s2l_ray.config import RunConfig, load
from s2l_ray.pipeline.outlook import Outlook, outlook
from s2l_ray.pipeline.pricing import Price
from s2l_ray.pipeline.rates import Given

COLUMNS = ("stage", "plan s", "run s", "ratio")
PARTS = 10  # of training and scoring, one is run


def kind_of(stage: str) -> str:
    """Return the row that a stage belongs to."""
    head = stage.partition("/")[0]
    return "evaluations" if stage.startswith("evaluations") else head


def planned(found: Outlook) -> dict[str, float]:
    """Return seconds by kind of stage; trainings side by side count once."""
    seconds: dict[str, float] = defaultdict(float)
    for price in found.prices:
        seconds[kind_of(price.stage)] += _wall(price)
    return seconds


def _wall(price: Price) -> float:
    assert price.seconds is not None
    return price.seconds / price.at_once


def ran(config: RunConfig) -> dict[str, float]:
    """Return the same of a finished run."""
    seconds: dict[str, float] = defaultdict(float)
    for entry in json.loads(Path(config.run_dir, "run.json").read_text())["times"]:
        kind = kind_of(entry["stage"])
        at_once = config.evaluation.targets_at_once if kind == "targets" else 1
        seconds[kind] += entry["seconds"] / at_once
    return seconds


def run_it(path: str, overrides: list[str]) -> dict[str, float]:
    """Run `pipeline`; return its seconds, and the CPU seconds of all its processes."""
    command = [sys.executable, "-m", "s2l_ray.cli", "pipeline", path, *overrides]
    began, used = time.monotonic(), dict[Any, float]()
    with subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr) as run:
        while run.poll() is None:
            machine.add_cpu_seconds(used, run.pid)
            time.sleep(0.2)  # what a process uses after the last look is not seen
    if run.returncode:
        sys.exit(run.returncode)
    return {"seconds": time.monotonic() - began, "cpu seconds": sum(used.values())}


def repeated(lines: Iterable[str], rows: int) -> Iterator[str]:
    """Yield so many different lines made of the given ones."""
    found = [json.loads(line) for line in lines]
    for number in range(rows):
        row = found[number % len(found)]
        copy = number // len(found)
        text = f"({copy}) {row['instruction']}" if copy else row["instruction"]
        yield json.dumps(row | {"instruction": text}) + "\n"


def tenth(config: RunConfig) -> dict[str, float]:
    """Read and tokenize the corpus, run a tenth of the training and of a scoring; return the
    seconds of all of it, extrapolated."""
    from s2l_ray.pipeline.plan import Plan, corpus_stage
    from s2l_ray.pipeline.run import Run
    from s2l_ray.scoring.losses import Scoring, score
    from s2l_ray.store import Manifest
    from s2l_ray.store.views import TokensView, TrainingView
    from s2l_ray.training.checkpoints import checkpoint_steps, checkpoints_of, num_steps

    with Run.start(config) as run:
        run.plan = Plan(config, corpus_stage(config))
        tokens = run.get(run.plan.tokens)
        seconds = {entry["stage"]: entry["seconds"] for entry in run.times}
        steps = num_steps(config.proxy, TokensView(tokens).trainable)
        few = {"max_steps": steps // PARTS, "num_checkpoints": 2}
        short = run.view(config.model_copy(update={"proxy": config.proxy.model_copy(update=few)}))
        proxy = short.get(short.plan.proxy)
        [entry] = [entry for entry in short.times if entry["stage"] == "proxy"]
        loop = TrainingView(proxy).seconds
        seconds["proxy"] = entry["seconds"] - loop + loop * steps / few["max_steps"]

        last = dict([max(checkpoints_of(proxy).items())])

        def scoring(name: str, parts: int) -> float:
            some: Manifest = replace(tokens, parts=tokens.parts[:parts])
            began = time.monotonic()
            score(run.store, [Scoring(some, last, f"tenth/{name}", name)], config.trajectories)
            return time.monotonic() - began

        actors, parts = config.trajectories.workers.num_workers, len(tokens.parts)
        few_parts, more = actors, max(2 * actors, parts // PARTS)
        first, second = scoring("few", few_parts), scoring("more", more)
        each = (second - first) / (more - few_parts)
        passes = len(checkpoint_steps(config.proxy, steps))
        seconds["losses"] = first - each * few_parts + each * parts * passes
    return seconds


def stored(run_dir: str) -> tuple[int, int]:
    """Return files and bytes below a run directory."""
    files = [path for path in Path(run_dir).rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def sentences(beside: dict[str, Any]) -> list[str]:
    """Say what the table does not."""
    before, between, after = beside["load"]
    found = [
        f"Load average before the plan {before}, before the run {between}, after it {after}; the "
        f"plan took {beside['plan took']:.0f} s."
    ]
    if "again" in beside:
        first, again = beside["run"], beside["again"]
        found.append(
            f"The run took {first['cpu seconds']:.0f} CPU seconds in {first['seconds']:.0f} s. "
            f"Started again when it was finished, it took {again['cpu seconds']:.1f} in "
            f"{again['seconds']:.1f} s."
        )
    if "files" in beside:
        files, size = beside["files"], beside["bytes"]
        found.append(
            f"Files written: planned {files['plan']:,}, found {files['run']:,}. Bytes: planned "
            f"{size['plan']:,}, found {size['run']:,}."
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("run_dir", help="a folder for this benchmark alone, which is emptied first")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--json")
    given = parser.parse_args()
    shutil.rmtree(given.run_dir, ignore_errors=True)
    overrides = [f"run_dir={given.run_dir}/run", *given.overrides]
    config = load(given.config, overrides)
    if given.rows:
        assert isinstance(config.corpus.path, str)
        corpus = Path(given.run_dir, "corpus.jsonl")
        corpus.parent.mkdir(parents=True)
        with open(config.corpus.path) as lines, open(corpus, "w") as file:
            file.writelines(repeated(lines, given.rows))
        overrides.append(f"corpus.path={corpus}")
        config = load(given.config, overrides)
    loads = [os.getloadavg()[0]]
    began = time.monotonic()
    found = outlook(config, Given())
    planning = time.monotonic() - began
    if found.total is None or found.total.seconds is None:
        sys.exit(f"no price: {found.unknown}; {found.rates}")
    plan = planned(found)
    loads.append(os.getloadavg()[0])
    if given.rows:
        run = tenth(config)
        plan = {name: plan[name] for name in run}
        total, of_plan = sum(run.values()), sum(plan.values())
    else:
        first = run_it(given.config, overrides)
        run, total = ran(config), first["seconds"]
        of_plan = found.total.seconds
    loads.append(os.getloadavg()[0])
    names = [*dict.fromkeys([*plan, *run])]
    rows: list[dict[str, Any]] = [
        dict(zip(COLUMNS, (name, plan.get(name), run.get(name)), strict=False)) for name in names
    ]
    rows.append({"stage": "all", "plan s": of_plan, "run s": total})
    for row in rows:
        if row["plan s"] and row["run s"]:
            row["ratio"] = row["plan s"] / row["run s"]
    print(machine.table(rows, COLUMNS))
    beside: dict[str, Any] = {"load": [round(each, 1) for each in loads], "plan took": planning}
    if not given.rows:
        files, size = stored(config.run_dir)
        beside |= {"run": first, "again": run_it(given.config, overrides)}
        beside |= {
            "files": {"plan": round(found.total.stored.puts), "run": files},
            "bytes": {"plan": round(found.total.stored.bytes), "run": size},
        }
    beside["controls"] = sentences(beside)
    print("\n".join(beside["controls"]))
    told = {"overrides": [machine.without_folder(each) for each in given.overrides]}
    machine.write(given.json, vars(given) | told, rows, **beside)


if __name__ == "__main__":
    main()
