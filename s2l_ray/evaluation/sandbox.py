"""Run Python programs that a model wrote, where they can do no harm.

A program is a stranger's code. It runs in a process of its own with

- no network: a new network namespace, in which nothing is up;
- no files but the Python library and the packages that it may import, read-only;
- no other processes: a new PID and a new IPC namespace, and it can start none;
- no privileges: no capability, and the user nobody if root made the namespaces;
- no system calls that the above does not hold for, such as shmget: a seccomp filter;
- limits on CPU time, elapsed time, memory and output;
- an empty environment, and none of the caller's open files.

This needs Linux on x86_64 or aarch64, `setpriv` and `unshare` (util-linux), and the right to make
namespaces: as root with CAP_SYS_ADMIN, or through user namespaces. Without them nothing is run.
sandboxed.py is the inside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 5  # of CPU time per program, as MAmmoTH's evaluation gives
START_SECONDS = 60  # elapsed, until the modules are loaded
WALL_SECONDS = 30  # elapsed: a program that sleeps, or a machine with far too much to do
MEMORY = 512 * 2**20  # bytes per program, beside the modules
OUTPUT = 10_000  # bytes per program

STANDARD = (
    "bisect", "calendar", "cmath", "collections", "copy", "datetime", "decimal", "fractions",
    "functools", "heapq", "itertools", "math", "numbers", "operator", "random", "re", "statistics",
    "string", "typing",
)  # fmt: skip
INSTALLED = {"sympy": ("mpmath",), "numpy": ()}  # and what they need; loaded if a program says so
CHECKS = (  # all print 42; strptime imports a module when it is called
    "print(6 * 7)",
    "from datetime import datetime\nprint(datetime.strptime('42', '%M').minute)",
)

INSIDE = Path(__file__).with_name("sandboxed.py")
ENDS_WITH_CALLER = ("setpriv", "--pdeathsig", "KILL")
NAMESPACES = ("--net", "--pid", "--ipc", "--uts", "--mount", "--fork", "--kill-child")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Ran(NamedTuple):
    """What a program printed, and why that is no result: error, time, memory or output."""

    output: str
    why: str | None = None


def check_sandbox() -> None:
    """Raise ValueError if this machine cannot confine a program, or lacks what programs need."""
    found = [name for name in INSTALLED if _folder(name)]
    programs = [*CHECKS, *(f"import {name}\nprint(42)" for name in found)]
    for program, ran in zip(programs, run_programs(programs), strict=True):
        if ran != Ran("42\n"):
            raise _refused(f"in it {program!r} prints {ran.output!r}, why: {ran.why}")


def run_programs(programs: Sequence[str]) -> list[Ran]:
    """Run programs one after the other; return what each printed.

    ValueError, and nothing is run, if this machine gives no network namespace.
    """
    if not programs:
        return []
    mentioned = set(re.findall(r"\w+", " ".join(programs)))
    found = {name: folder for name in INSTALLED if (folder := _folder(name))}
    loaded = [name for name in found if name in mentioned]
    needed = {name: None for each in loaded for name in (each, *INSTALLED[each])}
    request: dict[str, Any] = {
        "programs": list(programs),
        "modules": [*STANDARD, *loaded],
        "allowed": [*STANDARD, *found],
        "folders": sorted({folder for name in needed if (folder := _folder(name))}),
        "libraries": [f"{folder}/{name}" for name in needed if (folder := _folder(name))],
        "namespaces": {kind: _namespace(kind) for kind in ("net", "mnt", "pid", "ipc")},
        "seconds": SECONDS,
        "wall_seconds": WALL_SECONDS,
        "memory": MEMORY,
        "output": OUTPUT,
    }
    root = os.geteuid() == 0
    ended = _ended(request | {"root": root})
    if root and ended.returncode and ended.stderr.startswith("unshare: "):
        # Root of a container: without CAP_SYS_ADMIN, but perhaps with user namespaces.
        ended = _ended(request | {"root": False})
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    faults = [line["fault"] for line in lines if "fault" in line]
    if ended.returncode or faults or len(lines) != len(programs):
        told = (faults or ended.stderr.strip().splitlines() or ["it ended early"])[-1]
        raise _refused(told)
    return [Ran(line["output"], line["why"]) for line in lines]


def _ended(request: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the server until it ends. "root" in the request: without a user namespace."""
    user = () if request["root"] else ("--user", "--map-root-user")
    python = [sys.executable, "-s", "-S", "-P", "-B", str(INSIDE)]
    count = len(request["programs"])
    most = START_SECONDS + count * (WALL_SECONDS + 1)
    try:
        return subprocess.run(
            [*ENDS_WITH_CALLER, "unshare", *user, *NAMESPACES, *python],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd="/",
            env=ENVIRONMENT | {"PATH": os.defpath},
            timeout=most,
        )
    except FileNotFoundError:
        raise _refused(
            "the commands `setpriv` and `unshare` of util-linux are not installed"
        ) from None
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"evaluation.answer_with: {count:,} programs that a model wrote have not ended after "
            f"{most:,} s, though each has {WALL_SECONDS} s at most: this machine has far too much "
            "to do, or was stopped; the same command continues"
        ) from None


def _namespace(kind: str) -> str:
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        raise _refused(f"/proc/self/ns/{kind} is missing") from None


def _folder(name: str) -> str | None:
    """Return the folder that an installed module is imported from."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parents[1])


def _refused(why: str) -> ValueError:
    return ValueError(
        "evaluation.answer_with: a program that a model wrote runs only in a sandbox without a "
        f"network, which this machine does not give ({why}); use Linux as root with CAP_SYS_ADMIN "
        "or with user namespaces (see docs/evaluation.md), or set answer_with: text"
    )
