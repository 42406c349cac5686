"""A user who stops a run, on a real terminal, and goes on."""

import re
import signal
import sys
import time

import pytest
import yaml
from support.runs import settings
from support.terminal import Typed


@pytest.fixture
def started(tmp_path, tmp_ray):
    """Start jobs/select.py on a run that trains for minutes."""
    config = settings(tmp_path / "run", corpus__path="demo", proxy__epochs=50)
    data = config.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(data))
    arguments = ("jobs/select.py", tmp_path / "my.yaml")
    return lambda: Typed(sys.executable, *arguments, columns=200, RAY_TMPDIR=str(tmp_ray))


def check_stopped(program, status, seconds=20.0):
    start = time.monotonic()
    assert program.ended() == status, program.written
    assert time.monotonic() - start < seconds
    assert "Traceback" not in program.written
    assert program.written.count("\033[?25l") == program.written.count("\033[?25h")
    last = [line for line in program.screen() if line][-1]
    assert re.match(r"stopped; to continue, run: \S*python jobs/select.py /", last)


@pytest.mark.slow
def test_ctrl_c_in_a_training_and_sigterm_while_ray_starts(started):
    program = started()
    program.read(until=r"\[proxy\] \d+ of .* loss \d")
    program.press_ctrl_c()
    check_stopped(program, 130)

    program = started()
    program.read(until="starting Ray on this machine")
    time.sleep(1.5)
    program.process.send_signal(signal.SIGTERM)
    check_stopped(program, 143)

    program = started()
    program.read(until=r"\[proxy\] 0 of .* starting 1 worker")  # the lease was given back
    assert "reused: corpus, tokens" in program.written
    program.press_ctrl_c()
    program.read(until="stopping")
    program.press_ctrl_c()
    assert program.ended(timeout=10) == 130
