"""How long the work of a thread may still take, if that is limited (max_gpu_hours)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from s2l_ray.errors import LimitReached

_here = threading.local()


@contextmanager
def within(seconds: float | None, why: str) -> Iterator[None]:
    """Limit the block's work to so many seconds; None: no limit. why: of the error of `check`."""
    before = getattr(_here, "limit", None)
    _here.limit = None if seconds is None else (time.monotonic() + seconds, why)
    try:
        yield
    finally:
        _here.limit = before


def seconds_left() -> float | None:
    """Return the seconds that are left, below 0 if the time is over; None if there is no limit."""
    limit = getattr(_here, "limit", None)
    return None if limit is None else limit[0] - time.monotonic()


def check() -> None:
    """Raise LimitReached if the time is over. Call it where the work done so far is kept."""
    left = seconds_left()
    if left is not None and left <= 0:
        raise LimitReached(_here.limit[1])
