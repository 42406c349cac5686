"""Everything that runs on a GPU, on one GPU, in at most eight minutes and without a network.

    python benchmarks/gpu.py --json gpu.json

Models have the shapes of Pythia-70M and 410M, Llama-1B and Phi-2, and random weights. Each check
runs in a process of its own. One that fails, or runs over its time, is recorded with its message,
and the next one begins. The JSON file is written after each check.

- `share of floor`: the time of the necessary matrix products alone (benchmarks/scoring.py), at the
  rate measured in the same process, divided by the time taken.
- `busy`: the share of the time in which the GPU runs a kernel; on a CPU, its threads.

`--device cpu --small` runs the same checks with tiny shapes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import machine

LIMITS = {  # of each check on a GPU, in seconds; together eight minutes
    "rates": 20,
    "losses": 80,
    "scoring": 80,
    "training": 80,
    "zero": 50,
    "lora": 25,
    "memory": 20,
    "resume": 30,
    "generation": 25,
    "select": 70,
}
MINUTES = sum(LIMITS.values()) / 60
COLUMNS = ["check", "case", "result", "goal", "met"]
TOLD = 2000  # characters of an error that are kept

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="CHECK",
                        help=f"some of the checks: {', '.join(LIMITS)}")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for all of them")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    arguments = parser.parse_args()
    end, rows = time.monotonic() + 60 * arguments.minutes, list[Row]()
    print(machine.table([], COLUMNS), flush=True)
    for name in arguments.only:
        left = end - time.monotonic()
        limit = min(LIMITS[name], left) if arguments.device == "cuda" else left
        found = run(name, arguments.device, arguments.small, limit)
        rows += found
        print(machine.table([shown(row) for row in found], COLUMNS).split("\n", 2)[2], flush=True)
        machine.write(arguments.json, vars(arguments) | {"gpu": gpu()}, rows)
    if any("error" in row for row in rows):
        sys.exit(1)


def run(name: str, device: str, small: bool, limit: float) -> list[Row]:
    """Return the rows of a check; of one that fails, one row with the error."""
    if limit <= 0:
        return [{"check": name, "error": "not begun: no time is left"}]
    # CUDA does not survive a fork. Without it one server imports what all checks need.
    context: Any = multiprocessing.get_context("spawn" if device == "cuda" else "forkserver")
    if device == "cpu":
        context.set_forkserver_preload(["benchmarks.gpu_checks.training"])
    ours, theirs = context.Pipe()
    began = time.monotonic()
    process = context.Process(target=check, args=(name, device, small, theirs))
    process.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(limit) else f"not finished after {limit:.0f} s"
    except EOFError:
        process.join()
        found = f"its process ended with exit code {process.exitcode}"
    process.join(1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what the check has started, too
    process.kill()
    process.join()
    taken = {"check": name, "check seconds": time.monotonic() - began}
    if isinstance(found, str):
        return [taken | {"error": found}]
    return [taken | row for row in found]


def check(name: str, device: str, small: bool, answer: Connection) -> None:
    """Run a check in this process, and send its rows or its error."""
    os.setsid()
    try:
        import torch

        from benchmarks.gpu_checks import scoring, training, whole
        from benchmarks.gpu_checks.setup import Setup

        if small:
            torch.set_num_threads(1)  # more would wait for one another, not work
        checks = {**vars(scoring), **vars(training), **vars(whole)}
        answer.send(checks[name](Setup(device, small)))
    except BaseException as error:
        trace = traceback.format_exc()
        answer.send(f"{type(error).__name__}: {error}"[:TOLD] + f"\n{trace[-TOLD:]}")
        os._exit(1)  # a broken CUDA context may hang the interpreter's exit


def shown(row: Row) -> Row:
    """A row for the table: its numbers in one column."""
    apart = {*COLUMNS, "check seconds", "error"}
    numbers = [f"{name} {machine.shown(value)}" for name, value in row.items() if name not in apart]
    result = row["error"].partition("\n")[0] if "error" in row else ", ".join(numbers)
    met = {True: "yes", False: "no"}.get(row.get("met"))  # type: ignore[arg-type]
    return row | {"result": result, "met": met}


def gpu() -> str | None:
    """The name of the first GPU and its driver, without CUDA."""
    file = Path("/proc/driver/nvidia/version")
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if not found:
        return None
    model = found[0].read_text().partition("Model:")[2].partition("\n")[0].strip()
    version = file.read_text().partition("\n")[0] if file.is_file() else "driver unknown"
    return f"{model} ({version})"


if __name__ == "__main__":
    main()
