"""What `make soak` runs: the tests of faults and those left out of CI, in slices of an hour at
most, with each death three times. Every slice adds its rows to one table, runs/soak.jsonl.

`python tests/soak.py` runs the slice that was run longest ago, or `python tests/soak.py NAME` that
one, and prints the table; `python tests/soak.py --table` prints the table alone.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = TESTS.parent / "runs" / "soak.jsonl"
ROUNDS = 3  # of each death
LIMIT = 60  # minutes, of a slice
COLUMNS = ("fault", "stage", "tried", "survived", "seconds lost, each")


@dataclass(frozen=True)
class Slice:
    minutes: int  # a careful estimate, on two cores
    tests: tuple[str, ...]  # files of tests/


SLICES = {
    "owners": Slice(15, ("faults/test_owners.py", "faults/test_uploads.py")),
    "drivers": Slice(45, ("faults/test_drivers.py",)),
    "deaths": Slice(45, ("faults/test_deaths.py",)),
    "nodes": Slice(
        45, ("faults/test_node_deaths.py", "faults/test_spilling.py", "cluster/test_autoscaling.py")
    ),
    "store": Slice(30, ("faults/test_store_faults.py",)),
}


def rows_of(table):
    """The lines of a table's file, as dicts."""
    return [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []


def add(table, rows):
    table.parent.mkdir(parents=True, exist_ok=True)
    with open(table, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def oldest(rows):
    """The slice that was run longest ago, or never."""
    last = {name: "" for name in SLICES} | {
        row["slice"]: row["ended"] for row in rows if row.get("slice") in SLICES
    }
    return min(SLICES, key=lambda name: last[name])


def summary(rows):
    """The table as Markdown: the sums of each fault in each stage, then the runs of slices."""
    sums = {}
    for row in rows:
        if "kind" in row:
            known = sums.setdefault((row["kind"], row["stage"]), [0, 0, 0.0])
            for place, name in enumerate(("tried", "survived", "seconds")):
                known[place] += row[name]
    yield from _table(
        COLUMNS,
        [
            (kind, stage, tried, survived, round(seconds / tried))
            for (kind, stage), (tried, survived, seconds) in sorted(sums.items())
        ],
    )
    yield ""
    runs = [row for row in rows if "slice" in row]
    columns = ("slice", "ended", "commit", "minutes", "failed")
    yield from _table(columns, [[row[name] for name in columns] for row in runs])


def _table(columns, rows):
    yield f"| {' | '.join(columns)} |"
    yield "|" + " --- |" * len(columns)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def run(name, table):
    """Run a slice; return pytest's exit code, 124 if it took too long."""
    began = time.monotonic()
    try:
        code = subprocess.run(
            [sys.executable, "-m", "pytest", *(str(TESTS / file) for file in SLICES[name].tests),
             "-m", "faults or soak", f"--table={table}"],
            env=os.environ | {"ROUNDS": str(ROUNDS)}, timeout=60 * LIMIT, cwd=TESTS.parent,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        code = 124
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=TESTS, capture_output=True, text=True
    ).stdout.strip()
    minutes = round((time.monotonic() - began) / 60, 1)
    ended = datetime.now(UTC).isoformat(timespec="minutes")
    failed = {0: "no", 124: "too long"}.get(code, "yes")
    add(table, [{"slice": name, "ended": ended, "commit": commit, "minutes": minutes,
                 "failed": failed}])  # fmt: skip
    return code


def main():
    parser = argparse.ArgumentParser(description="Run a slice of the soak tests.")
    parser.add_argument("name", nargs="?", choices=SLICES, help="default: the one run longest ago")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    options = parser.parse_args()
    code = 0
    if not options.table:
        code = run(options.name or oldest(rows_of(TABLE)), TABLE)
    print("\n".join(summary(rows_of(TABLE))))
    sys.exit(code)


if __name__ == "__main__":
    main()
