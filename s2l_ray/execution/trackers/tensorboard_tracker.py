"""TensorBoard: event files in trackers/tensorboard of the run directory.

Each training has a folder of its own, so that their curves share charts. On an object store, event
files are copied there now and then.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from s2l_ray.execution.events import Point
from s2l_ray.execution.trackers.tracking import Start

PUBLISH = 15.0  # seconds between two copies to an object store


class Tracker:
    def __init__(self, start: Start) -> None:
        self.store, self.below = start.store, f"trackers/tensorboard/{start.name}"
        self.ids: dict[str, Any] = {}
        self.scratch = None if self.store.is_local else tempfile.mkdtemp(prefix="s2l_ray-tb-")
        self.folder = Path(self.scratch or self.store.address(self.below))
        self.writers: dict[str, SummaryWriter] = {}
        self.reached: dict[str, int] = {}
        self.published = time.monotonic()
        self.copied: dict[str, int] = {}  # to an object store: file -> bytes

    def curve(self, series: str, points: list[Point]) -> None:
        for point in points:
            if point.step <= self.reached.get(series, -1):
                continue  # again, after a worker died
            self.reached[series] = point.step
            writer = self._writer(series, purge_step=point.step)
            for name, value in point._asdict().items():
                if name != "step" and value is not None:
                    writer.add_scalar(name, value, point.step)
        self._publish()

    def seconds(self, stage: str, seconds: float) -> None:
        self._writer("").add_scalar(f"seconds/{stage}", seconds)
        if (over := self.writers.pop(stage, None)) is not None:  # each has a thread
            over.close()

    def selection(
        self, name: str, summary: dict[str, Any], tables: dict[str, dict[str, int]]
    ) -> None:
        self._writer("").add_text(name, _table("", summary))
        for title, counts in tables.items():
            self._writer("").add_text(f"{name}/{title}", _table("examples", counts))
        self._publish()

    def page(self, file: str, text: str) -> None:
        """TensorBoard shows no pages: say where this one is."""
        self._writer("").add_text(f"report/{file}", self.store.address("report", file))

    def end(self, error: str | None) -> None:
        for writer in self.writers.values():
            writer.close()
        self.published = -PUBLISH
        self._publish()
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _writer(self, series: str, purge_step: int | None = None) -> SummaryWriter:
        """purge_step: a reader drops what an earlier command wrote from there on."""
        if series not in self.writers:
            self.writers[series] = SummaryWriter(
                str(self.folder / series), purge_step=purge_step, flush_secs=5
            )
        return self.writers[series]

    def _publish(self) -> None:
        if not self.scratch or time.monotonic() - self.published < PUBLISH:
            return
        self.published = time.monotonic()
        for writer in self.writers.values():
            writer.flush()
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if file.is_file() and self.copied.get(name) != (size := file.stat().st_size):
                self.store.put_file(file, self.below, name)
                self.copied[name] = size


def _table(title: str, rows: dict[str, Any]) -> str:
    """Return a table in Markdown."""
    lines = [f"| | {title} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {_cell(name)} | {_cell(rows[name])} |" for name in rows)])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
