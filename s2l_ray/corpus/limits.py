"""Limits of time and memory for chat templates: programs that a stranger may have written.

Jinja's sandbox keeps a template from the rest of the process. It does not bound how long one runs,
or how long a text it makes.
"""

from __future__ import annotations

import ctypes
import math
import resource
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from s2l_ray.corpus.templates import TemplateRefuses

P = ParamSpec("P")
R = TypeVar("R")

SECONDS = 60.0  # of CPU time, for all renderings of an example
MOST_LATE = 3  # examples of a process that may take longer, or too much memory
MEMORY = 2**31  # bytes that the process may grow by meanwhile
EVERY = 0.25  # seconds between two looks at the time
IDLE = 20  # such looks without a call, after which the watching thread ends

_late = 0  # examples so far
_lock = threading.Lock()
_running: dict[int, tuple[int, float]] = {}  # thread -> its clock, and when its time is over
_before: tuple[int, int] | None = None  # the process's limits of memory, without ours
_watching = False


class _Late(BaseException):
    """Raised in a thread whose time is over. No template and no library catches it."""


def bounded(function: Callable[P, R], *args: P.args, **more: P.kwargs) -> R:
    """Call a function that renders. Of calls inside one another the outermost is bounded.

    TemplateRefuses if it takes too long or too much memory; ValueError if that has happened more
    than MOST_LATE times in this process.
    """
    here = threading.get_ident()
    if here in _running:
        return function(*args, **more)
    try:
        try:
            _begin(here)
            return function(*args, **more)
        finally:
            _end(here)
    except _Late:
        _end(here)  # _Late may have come in its first call; it comes once
        raise _refusal(f"more than {SECONDS:.0f} s of CPU time") from None
    except MemoryError:
        raise _refusal(f"more than {MEMORY:,} bytes of memory") from None


def _refusal(what: str) -> ValueError:
    global _late
    _late += 1
    if _late > MOST_LATE:
        return ValueError(
            f"the chat template takes {what} for an example, and has done so {_late} times; set "
            "prompt.chat_template to another one, or leave out these examples"
        )
    return TemplateRefuses(f"the chat template takes {what} for this example")


def _begin(thread: int) -> None:
    global _before, _watching
    clock = time.pthread_getcpuclockid(thread)
    with _lock:
        if not _running:
            _before = resource.getrlimit(resource.RLIMIT_DATA)
            limits = [_data_bytes() + MEMORY, *_before]
            most = min(each for each in limits if each != resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_DATA, (most, _before[1]))
        if not _watching:
            _watching = True
            threading.Thread(target=_watch, name="chat templates", daemon=True).start()
        _running[thread] = clock, time.clock_gettime(clock) + SECONDS


def _end(thread: int) -> None:
    with _lock:
        _running.pop(thread, None)
        if not _running and _before is not None:
            resource.setrlimit(resource.RLIMIT_DATA, _before)


def _watch() -> None:
    """Interrupt threads whose time is over."""
    global _watching
    idle = 0
    while idle < IDLE:
        time.sleep(EVERY)
        with _lock:
            idle = 0 if _running else idle + 1
            if idle == IDLE:
                _watching = False
            for thread, (clock, end) in _running.items():
                if time.clock_gettime(clock) > end:
                    number, error = ctypes.c_ulong(thread), ctypes.py_object(_Late)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(number, error)
                    _running[thread] = clock, math.inf


def _data_bytes() -> int:
    """Return the private memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()
