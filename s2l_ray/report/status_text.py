"""What `status` prints: as text, and as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from s2l_ray.execution import terminal
from s2l_ray.formatting import data_size, duration, for_terminal, moving, plural
from s2l_ray.pipeline.status import Reader, StageStatus, Status, open_run

EVERY = 3.0  # seconds between two looks of --watch


def show(place: str, overrides: list[str], *, watch: bool, as_json: bool) -> None:
    """Print the status of a run. watch: again and again until the run ends, redrawn in place on a
    terminal."""
    reader = Reader(open_run(place, overrides))
    status = reader.read()
    if not watch or as_json or not sys.stdout.isatty():
        while True:
            shown = json.dumps(asdict(status), indent=None if watch else 2)
            print(shown if as_json else as_text(status) + "\n" * watch, flush=True)
            if not watch or status.state != "running":
                return
            time.sleep(EVERY)
            status = reader.read()
    console = Console(file=terminal.behind(sys.stdout))
    with (
        suppress(KeyboardInterrupt),
        Live(_text(status), console=console, auto_refresh=False) as live,
    ):
        terminal.guard("stdout", "stderr")  # the end restores both
        while status.state == "running":
            time.sleep(EVERY)
            status = reader.read()
            live.update(_text(status), refresh=True)


def as_text(status: Status) -> str:
    """Return lines on the run, then its stages by state."""
    lines = [f"run_dir: {status.run_dir}", *_run(status)]
    lines += [f"warning: {each['headline']}. {each['advice']}" for each in status.alarms]
    if status.error:
        lines.append(f"error: {status.error}")
    lines += [f"note: {note}" for note in status.notes]
    groups = {
        "done": [each for each in status.stages if each.state == "done"],
        "running": [each for each in status.stages if each.state == "running"],
        "begun, not finished": [each for each in status.stages if each.state == "stopped"],
        "to do": [each for each in status.stages if each.state == "to do"],
        "from earlier commands": status.others,
    }
    width = max((len(each.name) for group in groups.values() for each in group), default=0)
    for title, group in groups.items():
        if group:
            lines += ["", title, *_table(group, width, alive=status.state == "running")]
        if title == "running":
            lines += [f"  {each['stage']}: {_progress(each, True)}" for each in status.progress]
    return "\n".join(lines)


def _text(status: Status) -> Text:
    return Text(for_terminal(as_text(status)))


def _run(status: Status) -> list[str]:
    """Return lines on the run itself."""
    command, until = status.command or "run", _clock(status.until)
    told = {
        "running": f"running since {_clock(status.since)}",
        "died": f"died; last sign of life {until}; run the same command to continue",
        "interrupted": f"was interrupted {until}",
        "ended": f"ended {until}, it is not known how",
    }.get(status.state, f"{status.state} {until}")
    named = {"host": "host", "pid": "process", "job": "job"}
    owner = ", ".join(
        f"{word} {status.owner[key]}"
        for key, word in named.items()
        if status.owner[key] not in (None, "none")
    )
    lines = [f"{command}: {told}", *([f"owner: {owner}"] if owner else [])]
    if status.state == "running":
        lines[-1] += f"; last sign of life {_ago(status.until)}"
    return lines


def _table(stages: Sequence[StageStatus], width: int, *, alive: bool) -> list[str]:
    cells = [_sizes(each) for each in stages]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    lines = []
    for each, row in zip(stages, cells, strict=True):
        numbers = "  ".join(text.rjust(size) for text, size in zip(row, widths, strict=True))
        told = _told(each, alive)
        lines.append(f"  {each.name:<{width}}  {numbers}  {told}".rstrip())
        for progress in each.progress:
            lines.append(f"  {'':<{width}}    {progress['stage']}: {_progress(progress, alive)}")
    return lines


def _sizes(stage: StageStatus) -> tuple[str, str, str]:
    return (
        plural(stage.rows, "row") if stage.rows else "",
        plural(stage.parts, "part") if stage.parts and not stage.resume else "",
        data_size(stage.bytes) if stage.bytes else "",
    )


def _told(stage: StageStatus, alive: bool) -> str:
    """Return what there is to say beside the sizes."""
    told = []
    if stage.count > 1:
        told.append(f"{stage.done:,} of {stage.count:,}")
    if stage.since:
        told.append(f"since {_clock(stage.since)}" if alive else f"begun {_clock(stage.since)}")
    if stage.resume is not None:
        told.append(f"resume point at step {stage.resume:,}")
    if stage.seconds is not None:
        told.append(duration(stage.seconds))
    return ", ".join(told)


def _progress(progress: dict[str, Any], alive: bool) -> str:
    rate, left = (progress["per_second"], progress["seconds_left"]) if alive else (None, None)
    text = moving(progress["done"], progress["total"], progress["unit"], rate, left)
    return f"{text}, {progress['note']}" if progress["note"] else text


def _clock(when: str | None) -> str:
    """Return such as "2026-11-30 13:02:10 UTC (12 min 05 s ago)"."""
    if when is None:
        return "unknown"
    at = datetime.fromisoformat(when)
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({_ago(when)})"


def _ago(when: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()
    return f"{duration(max(0.0, seconds), decimals=0)} ago"
