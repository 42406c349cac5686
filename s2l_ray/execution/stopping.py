"""Ctrl-C and SIGTERM: the first ends a command in good order, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from s2l_ray.execution import screen

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_received: list[int] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """Let these signals raise KeyboardInterrupt in the block. Only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, _stop) for each in SIGNALS}
    _received.clear()
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def status() -> int:
    """The exit status of a process that a signal has stopped, as a shell tells it."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> None:
    if _received:
        screen.restore()
        os._exit(128 + number)  # a local Ray ends with its driver
    _received.append(number)
    raise KeyboardInterrupt
