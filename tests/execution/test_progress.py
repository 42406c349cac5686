"""What stages tell of their progress, and how it is shown: on a terminal, elsewhere, as JSON."""

import json
import logging
import re
import time

import pytest
from support.terminal import python

from s2l_ray.execution import events, progress, rate, screen
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.screen import LogHandler


@pytest.fixture
def clocked(monkeypatch):
    """Time that passes when told to."""
    now = [100.0]
    for module in (progress, rate, screen):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.fixture
def out(capsys):
    """Read what has been written to stderr, which is no terminal."""
    return lambda: capsys.readouterr().err


@pytest.fixture
def mode():
    yield screen.set_mode
    screen.set_mode("lines")


@pytest.fixture
def logged(mode):
    handler = LogHandler()
    handler.setFormatter(logging.Formatter("[run] %(message)s"))
    logger = logging.getLogger("s2l_ray.of_this_test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger
    logger.removeHandler(handler)


def training(clocked):
    """50 s until the first of 200 steps, then 2 a second; 40 are from an earlier run."""
    with Progress("proxy", total=240, unit="steps", note="starting 2 workers", done=40) as shown:
        clocked(50)
        for step in range(41, 241):
            shown.set(step, "loss 2.1")
            clocked(0.5)


def test_progress_off_the_terminal_is_a_line_now_and_then(clocked, out):
    training(clocked)
    text = out()
    lines = text.splitlines()
    assert len(lines) == 9  # the start, the first step, one each 15 s, and the end
    assert lines[0] == "[proxy] 40 of 240 steps, starting 2 workers"
    assert lines[1] == "[proxy] 41 of 240 steps, loss 2.1, 50 s so far"
    assert lines[2] == "[proxy] 71 of 240 steps, 2.0/s, 1 min 24 s left, loss 2.1"
    assert lines[-1] == "[proxy] 240 of 240 steps, 2.0/s, 2 min 30 s taken, loss 2.1"
    assert "\r" not in text and "\033" not in text


def test_progress_of_a_slow_stage_and_of_a_failed_one(clocked, out):
    with pytest.raises(KeyError), Progress("slow", total=4, unit="parts") as shown:
        for _ in range(2):
            clocked(40)
            shown.advance(1)
        raise KeyError
    assert out().splitlines() == [
        "[slow] 1 of 4 parts, 40 s so far",
        "[slow] 2 of 4 parts, 1.5/min, 1 min 20 s left",
    ]


def test_a_training_that_an_earlier_run_has_finished(out):
    with Progress("target", total=44, unit="steps", note="starting 2 workers", done=44):
        pass
    assert out().splitlines() == [
        "[target] 44 of 44 steps, starting 2 workers",
        "[target] 44 of 44 steps, 0 s taken",
    ]


def test_a_long_first_unit_is_not_silent(monkeypatch, out):
    monkeypatch.setattr(screen, "SILENCE", 0.5)
    with Progress("answer", total=4, unit="parts", note="starting 2 workers"):
        time.sleep(2.2)
    text = out()
    lines = text.splitlines()
    assert lines[0] == "[answer] 0 of 4 parts, starting 2 workers"
    assert re.search(r"\n\[answer\] 0 of 4 parts, starting 2 workers, [12] s so far\n", text)
    assert 3 <= len(lines) <= 5 and lines[-1] == "[answer] 0 of 4 parts, 2 s taken"


def test_progress_as_json(clocked, out, mode, logged):
    mode("json")
    training(clocked)
    logged.warning("a node %s", "left")
    with pytest.raises(KeyError), Progress("score", total=2, unit="parts"):
        raise KeyError
    first, *middle, warning, failed = map(json.loads, out().splitlines())
    assert {first[key] for key in ("stage", "state", "note")} == {
        "proxy", "running", "starting 2 workers",
    }  # fmt: skip
    assert (first["done"], first["total"], first["per_second"]) == (40, 240, None)
    assert (middle[1]["per_second"], middle[1]["seconds_left"]) == (2.0, 84.5)
    assert (middle[-1]["state"], middle[-1]["seconds"]) == ("done", 150.0)
    assert (warning["level"], warning["message"]) == ("warning", "a node left")
    assert (failed["stage"], failed["state"]) == ("score", "failed")
    assert all(each["time"].endswith("+00:00") for each in (first, warning, failed))


def test_quiet_leaves_warnings(clocked, out, mode, logged):
    mode("quiet")
    training(clocked)
    logged.warning("a node left")
    assert out() == "[run] a node left\n"


def test_log_lines_off_the_terminal_are_plain(out, logged):
    logged.info("a node %s", "joined")
    assert out() == "[run] a node joined\n"


def test_listeners_hear_of_begin_change_and_end(clocked, out, monkeypatch):
    heard = []

    class Ears(events.Listener):
        def progressed(self, shown):
            heard.append((shown.state, shown.done, shown.note))

    monkeypatch.setattr(events, "listeners", [Ears()])
    with Progress("score", total=2, unit="parts", note="starting 1 worker") as shown:
        shown.advance(1)
        shown.set(2, "nearly")
    assert heard == [
        ("running", 0, "starting 1 worker"), ("running", 1, ""), ("running", 2, "nearly"),
        ("done", 2, "nearly"),
    ]  # fmt: skip


TWO_TRAININGS = """
import logging, sys, time
from concurrent.futures import ThreadPoolExecutor
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.screen import LogHandler

logger = logging.getLogger("s2l_ray")
logger.addHandler(LogHandler())
logger.setLevel(logging.INFO)

def train(name):
    with Progress(f"target {name}", total=30, unit="steps", note="starting 2 workers") as shown:
        time.sleep(1.2)
        for step in range(30):
            shown.set(step + 1, "loss 2.345, 12,345 tokens/s, and more than there is room for")
            time.sleep(0.1)

logger.info("before")
with ThreadPoolExecutor(2) as pool:
    done = [pool.submit(train, name) for name in ("s2l-seed0", "random-seed0")]
    time.sleep(3)
    logger.info("a node joined: [10.0.0.7]")
    print("(raylet) from another library")
    print("pause", flush=True)
[each.result() for each in done]
print("report: somewhere")
"""


def test_two_trainings_on_a_terminal_have_a_row_each():
    program = python(TWO_TRAININGS, columns=72)
    program.read(until="steps, starting 2 workers, 1 s so far")
    program.read(until="pause(.|\n)*s2l-seed0[^\n]* left, .*\n[^\n]*random-seed0[^\n]* left, .*…")
    above, rows = program.screen()[:-2], program.screen()[-2:]
    assert above == [
        "before",
        "a node joined: [10.0.0.7]",
        "(raylet) from another library",
        "pause",
    ]
    for row, name in zip(rows, ("s2l-seed0", "random-seed0"), strict=True):
        assert row.startswith(f"[target {name}] ") and " of 30 steps, " in row
        assert len(row) <= 72 and row.endswith("…") and "/s, " in row and " s left, " in row
    assert program.ended() == 0
    after = program.screen()
    assert after[:4] == above and after[-2:] == ["report: somewhere", ""]
    ends = " ".join(after[4:-2])
    assert ends.count("30 of 30 steps") == 2 == ends.count(" s taken, loss 2.345, ")
    assert program.written.count("\033[?25l") == program.written.count("\033[?25h")


def test_a_file_gets_what_is_printed_for_it(tmp_path):
    """stdout is a file, stderr the terminal."""
    program = python(
        "import sys\n"
        "from s2l_ray.execution.progress import Progress\n"
        "from s2l_ray.execution.screen import write_line\n"
        f"sys.stdout = open({str(tmp_path / 'out')!r}, 'w')\n"
        "with Progress('score', total=3, unit='parts'):\n"
        "    print('report: somewhere')\n"
        "    write_line('a node joined')\n"
    )
    assert program.ended() == 0
    assert (tmp_path / "out").read_text() == "report: somewhere\n"
    assert program.screen()[0] == "a node joined" and "report" not in program.written


def test_a_failed_stage_leaves_its_last_state(tmp_path):
    program = python(
        "from s2l_ray.execution.progress import Progress\n"
        "with Progress('score', total=3, unit='parts') as shown:\n"
        "    shown.advance(1)\n"
        "    raise SystemExit('broken')"
    )
    assert program.ended() == 1
    assert program.screen() == ["[score] 1 of 3 parts", "broken", ""]
