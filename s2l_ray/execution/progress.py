"""Progress of a stage: a live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import TracebackType

from s2l_ray.formatting import duration

INTERVAL = 15.0  # seconds between lines when the output is not a terminal
_live: dict[str, str] = {}  # the stages that run just now, and their lines on the terminal
_terminal = threading.Lock()


class Progress:
    """`with Progress("score", total=12, unit="parts") as p: p.advance(1)`; writes to stderr."""

    def __init__(self, stage: str, *, total: float, unit: str) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done, self.note = 0.0, ""
        self.began = self.shown = self.first = time.monotonic()
        self.already = 0.0  # done before `first`: not part of the rate

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._show(final=True)
        elif sys.stderr.isatty():
            _live.pop(self.stage, None)
            sys.stderr.write("\n")

    def resume_at(self, done: float) -> None:
        self.done = self.already = done
        self.first = time.monotonic()

    def advance(self, amount: float) -> None:
        self.set(self.done + amount)

    def set(self, done: float, note: str = "") -> None:
        self.done, self.note = done, note
        wait = 0.5 if sys.stderr.isatty() else INTERVAL
        if time.monotonic() - self.shown >= wait:
            self._show()

    def _show(self, final: bool = False) -> None:
        self.shown = time.monotonic()
        seconds = self.shown - self.began
        rate = (self.done - self.already) / max(self.shown - self.first, 1e-9)
        line = f"[{self.stage}] {self.done:,.0f} of {self.total:,.0f} {self.unit}"
        if rate > 0:
            line += f", {rate:,.1f}/s" if rate >= 0.1 else f", {60 * rate:.1f}/min"
            left = (self.total - self.done) / rate
            shown, word = (seconds, "taken") if final else (left, "left")
            line += f", {duration(shown, decimals=0)} {word}"
        if self.note:
            line += f", {self.note}"
        with _terminal:
            if not sys.stderr.isatty():
                sys.stderr.write(line + "\n")
            else:
                if final:
                    _live.pop(self.stage, None)
                    sys.stderr.write(f"\r\033[K{line}\n")
                else:
                    _live[self.stage] = line
                if _live:
                    width = shutil.get_terminal_size().columns - 1
                    sys.stderr.write("\r\033[K" + "  ".join(_live.values())[:width])
            sys.stderr.flush()
