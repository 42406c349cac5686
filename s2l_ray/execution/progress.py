"""What stages tell of their progress: how many units there are, how many are done, and a note.

It is shown on stderr (screen.py) and told to the listeners of events.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from s2l_ray.execution import events, screen
from s2l_ray.execution.rate import Rate
from s2l_ray.formatting import duration, moving


class Progress:
    """The progress of a stage, or of a piece of it that takes long.

        with Progress("score", total=12, unit="parts", note="starting 2 workers") as progress:
            progress.advance(1)

    total may grow. done: what an earlier run did; it does not count in the rate. note: what happens
    before the first unit is done, which is shown at once; then what `set` says.
    """

    def __init__(
        self, stage: str, *, total: float, unit: str, note: str = "", done: float = 0.0
    ) -> None:
        self.stage, self.total, self.unit = stage + _about.get(), total, unit
        self.note, self.done = note, done
        self.state = "running"  # then "done" or "failed"
        self.began = time.monotonic()
        self.rate = Rate()

    def __enter__(self) -> Progress:
        self.began = time.monotonic()
        screen.begin(self, silent=not self.note)
        self._tell()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.state = "done" if kind is None else "failed"
        screen.end(self, final=kind is None)
        self._tell()

    def advance(self, amount: float, *, found: bool = False) -> None:
        """found: an earlier run did it; it does not count in the rate."""
        if found:
            self.rate.skip(amount)
            self.done += amount
            amount = 0.0
        self.set(self.done + amount)

    def set(self, done: float, note: str = "") -> None:
        if done != self.done:
            self.done = done
            self.rate.add(done)
        self.note = note
        screen.update(self)
        self._tell()

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float | None:
        """An estimate; None if it is too early to say."""
        rate = self.rate.now
        return (self.total - self.done) / rate if rate else None

    def line(self, *, final: bool = False) -> str:
        rate = self.rate.overall if final else self.rate.now
        left = None if final else self.seconds_left
        line = f"[{self.stage}] {moving(self.done, self.total, self.unit, rate, left)}"
        if final:
            line += f", {duration(self.seconds, decimals=0)} taken"
        if self.note and (self.rate.first or not final):
            line += f", {self.note}"
        if not final and rate is None and self.seconds >= 1:
            line += f", {duration(self.seconds, decimals=0)} so far"
        return line

    def record(self) -> dict[str, Any]:
        """The same as data."""
        return {
            "stage": self.stage,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "seconds": round(self.seconds, 1),
            "per_second": self.rate.now if self.state == "running" else self.rate.overall,
            "seconds_left": self.seconds_left if self.state == "running" else None,
            "note": self.note,
        }

    def _tell(self) -> None:
        events.tell(lambda each: each.progressed(self))


@contextmanager
def about(what: str) -> Iterator[None]:
    """Name what the stages in the block are for, such as one of several seeds."""
    token = _about.set(f", {what}")
    try:
        yield
    finally:
        _about.reset(token)


_about = ContextVar("about", default="")
