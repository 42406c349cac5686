"""What a run is doing, kept in its lease's file, from where pipeline/status.py reads it."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from s2l_ray import __version__
from s2l_ray.execution import events
from s2l_ray.execution.events import Item, Listener
from s2l_ray.execution.progress import Progress
from s2l_ray.store import Manifest

if TYPE_CHECKING:
    from s2l_ray.store.lease import Lease

FORMAT = 1  # of the record
EVERY = 5.0  # seconds between two records of progress, each a request to the store
LONGEST = 2000  # characters of an error


class RunState(Listener):
    """Keeps the record that the lease tells. It is O(stages) large.

    format, version (of s2l_ray), command. agenda: a dict per events.Item. done: stages that are
    there, by folder: seconds that they took, None if they were found. running: a dict per stage
    with `folder` and `since`. progress: a dict per progress line (Progress.record) with the
    `folders` of the stages that it belongs to. ended, error: when and how the run ended, None
    before.
    """

    def __init__(self, lease: Lease, command: str) -> None:
        self.lease, self.lock = lease, threading.RLock()
        self.record: dict[str, Any] = {
            "format": FORMAT, "version": __version__, "command": command, "agenda": [], "done": {},
            "running": [], "progress": [], "ended": None, "error": None,
        }  # fmt: skip
        self.done: dict[str, float | None] = {}  # by the folders of stages, in order
        self.running: dict[str, str] = {}  # folder -> since
        self.moving: dict[Progress, list[str]] = {}  # with the stages that they belong to
        self._tell()

    def expected(self, fingerprint: str, items: list[Item]) -> None:
        with self.lock:
            self.record["agenda"] = [asdict(each) for each in items]
            self._tell()

    def stages_began(self, stages: list[str]) -> None:
        with self.lock:
            self.running |= dict.fromkeys(stages, _now())
            self._tell()

    def stages_stopped(self, stages: list[str]) -> None:
        with self.lock:
            for each in stages:
                self.running.pop(each, None)
            for progress, of in list(self.moving.items()):
                if set(of) & set(stages):
                    del self.moving[progress]

    def stage_ended(self, stage: Manifest, seconds: float, reused: bool) -> None:
        with self.lock:
            if not reused or stage.folder not in self.done:  # else met again, after a repair
                self.done[stage.folder] = None if reused else seconds
            self._tell()

    def progressed(self, progress: Progress) -> None:
        with self.lock:
            begun = progress.state == "running" and progress not in self.moving
            if progress.state != "running":
                self.moving.pop(progress, None)
            elif begun:
                self.moving[progress] = events.here()  # it begins in the thread of its stages
            if begun or time.monotonic() - self.told >= EVERY:
                self._tell()

    def ended(self, error: BaseException | None) -> None:
        """Say that the run has ended, and with what error."""
        with self.lock:
            self.record["ended"] = _now()
            if isinstance(error, KeyboardInterrupt):
                self.record["error"] = "interrupted"
            elif error is not None:
                self.record["error"] = said(error)[:LONGEST]
            self._tell()

    def _tell(self) -> None:
        self.told = time.monotonic()
        self.lease.tell(
            self.record
            | {
                "done": dict(self.done),
                "running": [
                    {"folder": folder, "since": since} for folder, since in self.running.items()
                ],
                "progress": [
                    each.record() | {"folders": folders}
                    for each, folders in self.moving.items()
                    if each.total
                ],
            }
        )


def said(error: BaseException) -> str:
    """Return what a run prints of an error: its sentence if a user can fix it, or with its type."""
    if isinstance(error, ValueError | OSError):
        # Ray gives an error of a task the task's whole trace; the error itself is its cause.
        return str(getattr(error, "cause", None) or error)
    return f"{type(error).__name__}: {error}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
