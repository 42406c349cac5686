"""Scoring while the proxy trains on: a checkpoint's losses are made as soon as it is kept, where
the cluster has room for that beside the training.

They are parts of the losses stage, which scoring finds there when its turn comes. Without room
nothing begins, and scoring follows the training. A place is room if the training takes a step while
it lies free: the place of a worker that has just died is none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from s2l_ray.config import WorkersConfig

logger = logging.getLogger(__name__)

PAUSE = 2.0  # seconds between two looks for checkpoints
ASK = 5.0  # seconds in which a free place is had: a process may have to start
GRACE = 30.0  # seconds that the end of the training waits for the scoring under way


@contextmanager
def meanwhile(
    checkpoints: Callable[[], list[int]],
    score: Callable[[list[int], threading.Event], None],
    workers: WorkersConfig,
    step: Callable[[], int],
) -> Iterator[None]:
    """Call `score(steps, stop)` with new ones of `checkpoints()` until the block ends.

    `step()` is the one that the training has reached.
    `score` is to return soon after `stop` is set, and is left behind if not. What it raises ends
    the scoring here, not the block.
    """
    stop = threading.Event()

    def work() -> None:
        scored: set[int] = set()
        try:
            while not stop.wait(PAUSE):
                steps = sorted(set(checkpoints()) - scored)
                if steps and _room_beside(step, workers, stop):
                    score(steps, stop)
                    scored.update(steps)
        except Exception as error:
            # Of what a task raised, Ray tells last what it was.
            lines = str(error).strip().splitlines() or [""]
            line = lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0]
            logger.info(
                f"scoring beside the training stopped, it follows later: {line or repr(error)}"
            )

    thread = threading.Thread(target=work, name="score meanwhile", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(GRACE)  # one that waits for a place of its own must not hold this up


def _room_beside(step: Callable[[], int], workers: WorkersConfig, stop: threading.Event) -> bool:
    """Wait until there is room for one actor while the training goes on; False if stopped."""
    while _place(workers, stop):
        reached = step()
        while step() == reached:  # the place lies free, for the training if it wants it
            if stop.wait(PAUSE):
                return False
        if _place(workers, stop, seconds=ASK):
            return True
    return False


@ray.remote(max_retries=0)
def _stand() -> None:
    """Take a place, and leave it at once."""


def _place(workers: WorkersConfig, stop: threading.Event, *, seconds: float | None = None) -> bool:
    """Wait (so long at most) for the place of one actor, which an autoscaler sees asked for; False
    if there was none, or if stopped. Nothing is held afterwards.

    A task asks for it, not a placement group: one that is removed just as it is made can leave its
    CPUs reserved for ever (seen with Ray 2.60).
    """
    kind = {"accelerator_type": workers.accelerator_type} if workers.accelerator_type else {}
    standing = _stand.options(
        num_cpus=workers.cpus_per_worker, num_gpus=workers.gpus_per_worker, **kind
    ).remote()
    until = time.monotonic() + (float("inf") if seconds is None else seconds)
    while not stop.is_set() and time.monotonic() < until:
        done, _ = ray.wait([standing], timeout=min(1.0, max(0.0, until - time.monotonic())))
        if done:
            return True
    ray.cancel(standing)
    return False
