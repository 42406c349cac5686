"""The GPU-hours that a run directory has taken, and their limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from s2l_ray.errors import LimitReached
from s2l_ray.execution.deadline import within
from s2l_ray.pipeline.stage import Work


class Spending:
    """Counts the seconds of stages times the GPUs that their workers reserve.

    limit: GPU-hours that all commands may take together (max_gpu_hours); None: no limit. hours:
    that earlier commands took.
    """

    def __init__(self, limit: float | None = None, hours: float = 0.0) -> None:
        self.limit, self.hours = limit, hours
        self._told = (
            f"max_gpu_hours: the {limit or 0:g} GPU-hours of this run directory are spent. All "
            f"that is committed is kept, and an unfinished stage goes on from there: set "
            f"max_gpu_hours higher and run the same command again"
        )
        self._lock = threading.Lock()  # several targets may be trained at once

    @contextmanager
    def of(self, work: Work, at_once: int = 1) -> Iterator[None]:
        """Count the block, which makes stages of this kind, `at_once` of them side by side at most.

        LimitReached, before or at a commit in the block, if nothing is left.
        """
        gpus = work.gpus
        if not gpus:
            yield
            return
        left = None if self.limit is None else 3600 * (self.limit - self.hours) / (gpus * at_once)
        if left is not None and left <= 0:
            raise LimitReached(self._told)
        began = time.monotonic()
        try:
            with within(left, self._told):
                yield
        finally:
            with self._lock:
                self.hours += gpus * (time.monotonic() - began) / 3600
