"""Scoring while the proxy trains on: a checkpoint's losses are made as soon as it is kept, where
the cluster has room for that beside the training.

They are parts of the losses stage, which scoring finds there when its turn comes. Without room
nothing begins, and scoring follows the training. A place is room if the training takes a step while
it lies free: the place of a worker that has just died is none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from s2l_ray.config import WorkersConfig
from s2l_ray.driver import say

PAUSE = 2.0  # seconds between two looks for checkpoints
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
            say(f"scoring beside the training stopped, it follows later: {line or repr(error)}")

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
        if _place(workers, stop, seconds=PAUSE):
            return True
    return False


def _place(workers: WorkersConfig, stop: threading.Event, *, seconds: float | None = None) -> bool:
    """Wait (so long at most) for the place of one actor, which an autoscaler sees asked for, and
    give it back at once; False if there was none, or if stopped."""
    bundle = {"CPU": float(workers.cpus_per_worker)}
    if workers.gpus_per_worker:
        bundle["GPU"] = float(workers.gpus_per_worker)
    if workers.accelerator_type:
        bundle[f"accelerator_type:{workers.accelerator_type}"] = 0.001
    group = ray.util.placement_group([bundle])
    try:
        if seconds is not None:
            return group.wait(seconds)
        while not stop.is_set():
            if group.wait(1):
                return True
        return False
    finally:
        ray.util.remove_placement_group(group)
