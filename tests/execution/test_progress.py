"""How progress is shown, on a terminal and elsewhere."""

import io
import logging
import re
import sys

import pytest

from s2l_ray.execution import progress
from s2l_ray.execution.progress import LogHandler, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clocked(monkeypatch):
    """Time that passes when told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_progress_off_the_terminal_is_a_line_now_and_then(clocked, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with Progress("score", total=2000, unit="parts") as shown:
        shown.resume_at(1000)
        for _ in range(1000):
            clocked(0.125)
            shown.set(shown.done + 1, "loss 2.1")
    lines = out.getvalue().splitlines()
    assert len(lines) == 9  # 125 s: one each 15 s, and the last
    assert lines[0] == "[score] 1,120 of 2,000 parts, 8.0/s, 1 min 50 s left, loss 2.1"
    assert lines[-1] == "[score] 2,000 of 2,000 parts, 8.0/s, 2 min 05 s taken, loss 2.1"
    assert "\r" not in out.getvalue() and "\033" not in out.getvalue()


def test_progress_of_a_slow_stage_and_of_a_failed_one(clocked, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with pytest.raises(KeyError), Progress("slow", total=4, unit="parts") as shown:
        clocked(40)
        shown.advance(1)
        raise KeyError
    assert out.getvalue() == "[slow] 1 of 4 parts, 1.5/min, 2 min 00 s left\n"


def test_progress_on_a_terminal_is_one_live_line(clocked, monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    with Progress("score", total=3, unit="parts") as shown:
        for _ in range(3):
            clocked(1)
            shown.advance(1)
    assert out.getvalue().count("\n") == 1 and out.getvalue().endswith("3 s taken\n")
    assert len(re.findall("\r\033\\[K", out.getvalue())) == 4


@pytest.fixture
def logged():
    handler = LogHandler()
    handler.setFormatter(logging.Formatter("[run] %(message)s"))
    logger = logging.getLogger("s2l_ray.of_this_test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger
    logger.removeHandler(handler)


def screen(text):
    """What a terminal shows: \\r goes to the start of the line, \\033[K clears the rest of it."""
    lines = [""]
    for piece in re.findall(r"\r\033\[K|\n|[^\r\n\033]+", text):
        if piece == "\n":
            lines.append("")
        elif piece.startswith("\r"):
            lines[-1] = ""
        else:
            lines[-1] += piece
    return lines


def test_log_lines_go_above_the_live_line(clocked, monkeypatch, logged):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    with Progress("score", total=3, unit="parts") as shown:
        logged.info("before")
        clocked(1)
        shown.advance(1)
        logged.info("a node joined")
        assert screen(out.getvalue()) == [
            "[run] before", "[run] a node joined", "[score] 1 of 3 parts, 1.0/s, 2 s left",
        ]  # fmt: skip
        with Progress("answer", total=1, unit="parts") as other:
            clocked(1)
            other.advance(1)
        assert screen(out.getvalue())[-2:] == [
            "[answer] 1 of 1 parts, 1.0/s, 1 s taken", "[score] 1 of 3 parts, 1.0/s, 2 s left",
        ]  # fmt: skip
    logged.info("after")
    assert screen(out.getvalue())[-3:] == [
        "[score] 1 of 3 parts, 0.5/s, 2 s taken", "[run] after", "",
    ]  # fmt: skip


def test_log_lines_off_the_terminal_are_plain(monkeypatch, logged):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    logged.info("a node %s", "joined")
    assert out.getvalue() == "[run] a node joined\n"
