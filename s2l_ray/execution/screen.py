"""What a command writes to stderr: log lines, and a row per running stage.

On a terminal the rows are redrawn in place, below the lines. Elsewhere a row becomes a line when it
begins, now and then, and when it ends. `--quiet` leaves warnings and errors; `--json-logs` writes
each line as a JSON object. Control characters are escaped.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from s2l_ray.execution import terminal
from s2l_ray.formatting import for_json, for_terminal

if TYPE_CHECKING:
    from rich.live import Live

Mode = Literal["lines", "quiet", "json"]

INTERVAL = 15.0  # seconds between two lines of a row
SILENCE = 60.0  # seconds after which a row has a line though nothing has changed
PER_SECOND = 2.0  # drawings of the rows on a terminal


class Row(Protocol):
    """Something that goes on. The same words on a terminal and elsewhere."""

    def line(self, *, final: bool = False) -> str: ...

    def record(self) -> dict[str, Any]: ...


_mode: Mode = "lines"
_rows: dict[Row, float] = {}  # running -> when it was written last
_live: Live | None = None  # while rows are drawn on a terminal
_lock = threading.RLock()
_breaking: threading.Thread | None = None  # the silence of rows


def set_mode(mode: Mode) -> None:
    """Choose how everything is written from now on."""
    global _mode
    _mode = mode


def begin(row: Row, *, silent: bool = False) -> None:
    """Show a row from now on. silent: without a line of its own where rows are not drawn."""
    global _breaking
    with _lock:
        _rows[row] = time.monotonic()
        if _is_drawn():
            _start_drawing()
            return
        if not silent:
            _write(row)
        if _breaking is None:
            _breaking = threading.Thread(target=_break_silence, daemon=True)
            _breaking.start()


def update(row: Row) -> None:
    """Say that a row has changed."""
    with _lock:
        if _live is None and row in _rows and time.monotonic() - _rows[row] >= INTERVAL:
            _rows[row] = time.monotonic()
            _write(row)


def end(row: Row, *, final: bool) -> None:
    """Leave the row's last state as a line. final: it is complete; otherwise an error follows."""
    global _live
    with _lock:
        if _rows.pop(row, None) is None:  # after end_all
            return
        if final or _live is not None or _mode == "json":
            _write(row, final=final)
        if _live is not None and not _rows:
            _live.stop()
            _live = None


def end_all() -> None:
    """End all rows: those of other threads will not change any more."""
    for row in list(_rows):
        end(row, final=False)


def write_line(text: str, level: str = "info") -> None:
    """Write a line, above the rows."""
    with _lock:
        if _mode == "json":
            _dump(level=level, message=text)
        elif _live is not None:
            from rich.text import Text

            _live.console.print(Text(for_terminal(text)), soft_wrap=True)
        else:
            sys.stderr.write(f"{for_terminal(text)}\n")
            sys.stderr.flush()


def restore() -> None:
    """Give the terminal back as it was, for a process that is about to end."""
    if _live is not None:
        os.write(2, b"\n\033[?25h")  # rich hides the cursor


class LogHandler(logging.Handler):
    """Writes log records with write_line."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage() if _mode == "json" else self.format(record)
            write_line(text, record.levelname.lower())
        except Exception:
            self.handleError(record)


def _write(row: Row, final: bool = False) -> None:
    if _mode == "json":
        _dump(level="info", **row.record())
    elif _mode == "lines":
        write_line(row.line(final=final))


def _break_silence() -> None:
    """Write rows of which nothing was heard for long, until there are none."""
    global _breaking
    while True:
        time.sleep(1.0)
        with _lock:
            for row, written in _rows.items():
                if time.monotonic() - written >= SILENCE:
                    _rows[row] = time.monotonic()
                    _write(row)
            if not _rows:
                _breaking = None
                return


def _dump(**fields: Any) -> None:
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | fields
    sys.stderr.write(for_json(json.dumps(record, ensure_ascii=False)) + "\n")
    sys.stderr.flush()


def _is_drawn() -> bool:
    return _mode == "lines" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _start_drawing() -> None:
    global _live
    if _live is not None:
        return
    from rich.console import Console
    from rich.live import Live

    redirect_stdout = sys.stdout.isatty()  # a file gets what is printed for it
    _live = Live(
        get_renderable=_Rows,
        console=Console(file=terminal.behind(sys.stderr), force_terminal=True, force_jupyter=False),
        refresh_per_second=PER_SECOND,
        transient=True,  # `end` leaves a line of each row
        redirect_stdout=redirect_stdout,
    )
    _live.start()
    # What others write meanwhile. The end restores both streams.
    terminal.guard("stderr", *(["stdout"] if redirect_stdout else []))


class _Rows:
    """Draws each row on a line, cut at the terminal's width."""

    def __rich_console__(self, *_: Any) -> Any:
        from rich.text import Text

        # Without the lock, which another thread may hold while it waits for this drawing.
        for row in list(_rows):
            yield Text(for_terminal(row.line()), no_wrap=True, overflow="ellipsis")
