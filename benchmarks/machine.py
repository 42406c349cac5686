"""What a benchmark ran on, and how its results are written: a table, and JSON beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from s2l_ray.execution.machine import versions

VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # what matrix products go by


def describe() -> dict[str, Any]:
    about: dict[str, str] = {}  # of the first CPU
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


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Markdown; numbers with three digits that count."""
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


def write(
    path: str | None, settings: dict[str, Any], rows: Sequence[dict[str, Any]], **beside: Any
) -> None:
    """JSON to a file, where one was asked for; of paths in the settings it has the last name.

    beside: what else was found, by name.
    """
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        told = {
            name: Path(value).name if isinstance(value, str) and os.path.exists(value) else value
            for name, value in settings.items()
            if name != "json" and value is not None
        }
        result = {"machine": describe(), "settings": told, "rows": list(rows)} | beside
        Path(path).write_text(json.dumps(result, indent=1) + "\n")
