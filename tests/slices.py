"""The slices of the slow tests: CI runs one per push, `make test-all` runs every test.

A test marked `slow` or `faults`, but not `soak`, belongs to the slice with the longest prefix of
its path. `python tests/slices.py` prints what CI runs for the commit that is checked out.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

TESTS = Path(__file__).resolve().parent
OTHER_PYTHON = "python"  # this slice runs `make test` on another Python instead
RECENT = timedelta(hours=6)  # what counts as one push if CI_BASE does not name its base


@dataclass(frozen=True)
class Slice:
    minutes: int  # a careful estimate, on two cores
    tests: tuple[str, ...]  # files and folders of tests/
    area: tuple[str, ...]  # a change in these files and folders, or in `tests`, runs the slice too


SLICES = {
    "selection": Slice(
        13,
        ("pipeline", "selection", "clustering", "analysis", "corpus"),
        ("s2l_ray/selection", "s2l_ray/clustering", "s2l_ray/corpus"),
    ),
    "targets": Slice(
        8,
        ("pipeline/test_targets.py", "pipeline/test_baselines.py", "evaluation"),
        ("s2l_ray/evaluation", "s2l_ray/pipeline"),
    ),
    "comparison": Slice(
        10,
        ("pipeline/test_comparison.py", "pipeline/test_diagnosis.py", "report", "benchmarks"),
        ("s2l_ray/analysis", "s2l_ray/report"),
    ),
    "training": Slice(
        15,
        ("training", "scoring", "models", "test_record.py"),
        ("s2l_ray/training", "s2l_ray/scoring", "s2l_ray/models", "s2l_ray/record.py"),
    ),
    "loops": Slice(
        9,
        ("training/test_own.py", "pipeline/test_own_loop.py", "benchmarks/test_gpu.py"),
        (
            "s2l_ray/training/own.py",
            "s2l_ray/training/own_worker.py",
            "s2l_ray/training/reports.py",
            "s2l_ray/selection/dataset.py",
            "examples",
            "benchmarks/gpu.py",
            "benchmarks/gpu_checks",
        ),
    ),
    "exports": Slice(  # makes environments with LLaMA-Factory and Axolotl from the package index
        8,
        (
            "selection/test_other_trainers.py",
            "selection/test_trainers.py",
            "examples",
            "jobs/test_push.py",
        ),
        ("s2l_ray/selection/exports", "s2l_ray/report/card.py", "examples"),
    ),
    "commands": Slice(
        14,
        ("jobs", "execution", "cluster", "config", "store", "golden", "pipeline/test_status.py"),
        (
            "s2l_ray/cli.py",
            "s2l_ray/commands.py",
            "s2l_ray/pipeline/status.py",
            "s2l_ray/execution",
            "s2l_ray/config",
            "jobs",
            "cluster",
            "cluster.yaml",
            "pyproject.toml",
        ),
    ),
    "deaths": Slice(
        12,
        ("faults/test_deaths.py",),
        ("s2l_ray/store", "tests/support/faults.py"),
    ),
    "owners": Slice(
        6,
        ("faults/test_owners.py", "faults/test_uploads.py"),
        ("s2l_ray/store", "s2l_ray/training/saving.py", "tests/support/plain_run.py"),
    ),
    "nodes": Slice(
        12,
        ("faults/test_node_deaths.py", "faults/test_store_faults.py"),
        ("s2l_ray/store", "s2l_ray/execution", "tests/support/faults.py"),
    ),
    OTHER_PYTHON: Slice(14, (), ("pyproject.toml", "constraints.txt", "requirements.lock")),
}


def slices_of(path):
    """The slices of a test file, by its path in tests/: the longest prefix decides."""
    found = {}
    for name, each in SLICES.items():
        for prefix in each.tests:
            if path == prefix or path.startswith(f"{prefix}/"):
                found.setdefault(len(prefix), []).append(name)
    return found[max(found)] if found else []


def is_sliced(item):
    """Whether a collected test must belong to a slice."""
    marks = {mark.name for mark in item.iter_markers()}
    return bool(marks & {"slow", "faults"}) and "soak" not in marks


def in_slice(item, name):
    return is_sliced(item) and slices_of(path_of(item)) == [name]


def path_of(item):
    return item.path.relative_to(TESTS).as_posix()


def chosen(count, changed, minutes):
    """What to run after `count` commits: names of slices with the reason, and names left out.

    The first is the slice whose turn it is. The others are those whose area has a changed file,
    as far as `minutes` allow.
    """
    names = list(SLICES)
    turn = count % len(names)
    first, *others = names[turn:] + names[:turn]
    run = {first: f"slice {turn + 1} of {len(names)}, the turn of commit {count}"}
    minutes -= SLICES[first].minutes
    left_out = []
    for name in others:
        files = [file for file in changed if _in_area(file, name)]
        if not files:
            continue
        if SLICES[name].minutes <= minutes:
            run[name] = f"its area has changed: {files[0]}"
            minutes -= SLICES[name].minutes
        else:
            left_out.append(name)
    return run, left_out


def _in_area(file, name):
    if file.startswith("tests/") and slices_of(file.removeprefix("tests/")) == [name]:
        return True
    return any(file == path or file.startswith(f"{path}/") for path in SLICES[name].area)


def changed_files(base=None):
    """Files changed since a commit, by default since RECENT before the last one."""
    if base is None:
        last = datetime.fromisoformat(_git("log", "-1", "--format=%cI"))
        log = _git("log", f"--since={(last - RECENT).isoformat()}", "--name-only", "--format=")
        return sorted(set(log.split("\n")) - {""})
    return _git("diff", "--name-only", base, "HEAD").split("\n")


def _git(*arguments):
    done = subprocess.run(
        ["git", *arguments], cwd=TESTS, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description="Print the slices that CI runs, one per line.")
    parser.add_argument("--minutes", type=int, default=60, help="time for all of them")
    minutes = parser.parse_args().minutes
    changed = changed_files(os.environ.get("CI_BASE"))
    run, left_out = chosen(int(_git("rev-list", "--count", "HEAD")), changed, minutes)
    for name, reason in run.items():
        print(f"ci: {name}: {reason}; about {SLICES[name].minutes} minutes", file=sys.stderr)
        print(name)
    if left_out:
        print(f"ci: changed, but no time left: {', '.join(left_out)}", file=sys.stderr)


if __name__ == "__main__":
    main()
