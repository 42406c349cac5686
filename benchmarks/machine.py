"""Describe the machine of a benchmark, and write its results as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from s2l_ray.execution.machine import versions

VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # what speeds up matrix products


def describe() -> dict[str, Any]:
    about: dict[str, str] = {}  # the first CPU
    if (info := Path("/proc/cpuinfo")).is_file():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            about.setdefault(name.strip(), value.strip())
    name = about.get("model name") or platform.processor() or platform.machine()
    vectors = [flag for flag in VECTORS if flag in about.get("flags", "").split()]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": f"{name} ({', '.join(vectors)})" if vectors else name,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "versions": versions(),
    }


def add_cpu_seconds(used: dict[Any, float], pid: int) -> None:
    """Note the CPU seconds that a process and its descendants have used so far."""
    with suppress(psutil.Error):
        for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.Error):  # it has ended
                times = each.cpu_times()
                used[each.pid, each.create_time()] = times.user + times.system


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table; numbers with four significant digits."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(shown(row.get(name, "")) for name in columns) + " |")
    return "\n".join(lines)


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def command() -> str:
    """The command line of this process, without folders and without --json."""
    words = [without_folder(word) for word in sys.argv[1:]]
    if "--json" in words:
        place = words.index("--json")
        del words[place : place + 2]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def without_folder(word: str) -> str:
    """Return the last name of a path, and of the one in such as corpus.path=PATH."""
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if os.path.exists(value) else word


def write(
    path: str | None, settings: dict[str, Any], rows: Sequence[dict[str, Any]], **beside: Any
) -> None:
    """Write results to a JSON file, if one is given. Paths in the settings keep their last name.

    beside: further findings, by name.
    """
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        told = {
            name: Path(value).name if isinstance(value, str) and os.path.exists(value) else value
            for name, value in settings.items()
            if name != "json" and value is not None
        }
        result = {"command": command(), "machine": describe(), "settings": told, "rows": list(rows)}
        Path(path).write_text(json.dumps(result | beside, indent=1) + "\n")
