"""Ctrl-C and SIGTERM: the first in good order, the second at once."""

import signal

import pytest
from support.terminal import python

PROGRAM = """
import signal, sys, time
from s2l_ray.execution import stopping
from s2l_ray.execution.progress import Progress

before = signal.getsignal(signal.SIGTERM)
try:
    with stopping.stoppable(), Progress("proxy", total=3, unit="steps"):
        try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            print("stopping", flush=True)
            time.sleep({seconds})
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGTERM) is before
    print("stopped")
    sys.exit(stopping.status())
"""


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_in_good_order(number, status):
    program = python(PROGRAM.format(seconds=0))
    program.read(until="working")
    if number == signal.SIGINT:
        program.press_ctrl_c()
    else:
        program.process.send_signal(number)
    assert program.ended() == status
    assert "stopped" in program.written and "Traceback" not in program.written


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_it_at_once(first):
    program = python(PROGRAM.format(seconds=60))
    program.read(until="working")
    program.process.send_signal(first)
    program.read(until="stopping")
    program.press_ctrl_c()
    assert program.ended(timeout=10) == 130
    assert "stopped" not in program.written and "Traceback" not in program.written
    assert program.written.count("\033[?25l") == program.written.count("\033[?25h")
