"""The progress of stages on stderr, and log lines that do not get in its way.

On a terminal all running stages share one live line. Elsewhere a stage prints a line now and then.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from types import TracebackType

from s2l_ray.formatting import duration

INTERVAL = 15.0  # seconds between a stage's lines if stderr is not a terminal
LIVE_INTERVAL = 0.5  # seconds between updates of the live line

_live: dict[str, str] = {}  # running stage -> its part of the live line
_terminal = threading.RLock()


class Progress:
    """`with Progress("score", total=12, unit="parts") as p: p.advance(1)`"""

    def __init__(self, stage: str, *, total: float, unit: str) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done, self.note = 0.0, ""
        self.began = self.shown = self.first = time.monotonic()
        self.already = 0.0  # done before `first`; does not count in the rate

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
            with _terminal:
                _live.pop(self.stage, None)
                sys.stderr.write("\n")  # the last state stays, above the error

    def resume_at(self, done: float) -> None:
        """Start from `done`: what an earlier run did."""
        self.done = self.already = done
        self.first = time.monotonic()

    def advance(self, amount: float) -> None:
        self.set(self.done + amount)

    def set(self, done: float, note: str = "") -> None:
        self.done, self.note = done, note
        interval = LIVE_INTERVAL if sys.stderr.isatty() else INTERVAL
        if time.monotonic() - self.shown >= interval:
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
            if final or not sys.stderr.isatty():
                _live.pop(self.stage, None)
                write_line(line)
            else:
                _live[self.stage] = line
                sys.stderr.write(_live_line())
            sys.stderr.flush()


class LogHandler(logging.Handler):
    """Writes log records to stderr, each on a line of its own above the live line."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write_line(self.format(record))
        except Exception:
            self.handleError(record)


def write_line(text: str) -> None:
    """Write a line to stderr. On a terminal, clear the live line first and draw it again below."""
    with _terminal:
        if not sys.stderr.isatty():
            sys.stderr.write(f"{text}\n")
        else:
            live = _live_line() if _live else ""
            sys.stderr.write(f"\r\033[K{text}\n{live}")
        sys.stderr.flush()


def _live_line() -> str:
    width = shutil.get_terminal_size().columns - 1
    return "\r\033[K" + "  ".join(_live.values())[:width]
