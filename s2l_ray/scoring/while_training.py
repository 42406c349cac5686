"""Score the proxy's checkpoints while its training goes on, where the cluster has room for that.

The losses are parts of the losses stage. Scoring finds them there when its turn comes. If there is
no room nothing starts, and scoring follows the training. A place counts as room if the training
takes a step while it lies free: the place of a worker that has just died is the training's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import ray
from ray.util import placement_group_table

from s2l_ray.config import TrajectoriesConfig, WorkersConfig
from s2l_ray.execution.lasting import LastingActors
from s2l_ray.execution.nodes import resources_of
from s2l_ray.scoring.losses import Scoring, actors_of, make_scorer
from s2l_ray.store import Store

logger = logging.getLogger(__name__)

PAUSE = 2.0  # seconds between two looks for checkpoints and for a training that waits
ASK = 5.0  # seconds in which a place that is free is had: a process may have to start
IDLE = 300.0  # seconds after which actors without work are let go, and their nodes with them
GRACE = 30.0  # seconds that the end of the training waits for the parts under way


@contextmanager
def score_while_training(
    store: Store,
    config: TrajectoriesConfig,
    *,
    checkpoints: Callable[[], list[int]],
    scorings: Callable[[list[int]], list[Scoring]],
    step: Callable[[], int],
) -> Iterator[None]:
    """Until the block ends, score `scorings(steps)` of each new step in `checkpoints()`.

    `step()` is the one that the training has reached. One pool of actors does it, which grows as
    there is room and is let go if the training waits for a place. An error ends the scoring here
    and is logged; the block goes on.
    """
    stop = threading.Event()

    def work() -> None:
        actors = LastingActors(
            store, make_scorer, (store, config),
            label="score while training", actors=actors_of(config),
        )  # fmt: skip
        try:
            with actors:
                _work(actors, checkpoints, scorings, step, stop)
        except Exception as error:
            message = str(error).partition("\n")[0] or repr(error)
            logger.info(f"scoring beside the training stopped, it follows later: {message}")

    thread = threading.Thread(target=work, name="score while training", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(GRACE + PAUSE)  # one that waits for the store, say, must not hold this up


def _work(
    actors: LastingActors,
    checkpoints: Callable[[], list[int]],
    scorings: Callable[[list[int]], list[Scoring]],
    step: Callable[[], int],
    stop: threading.Event,
) -> None:
    seen: set[int] = set()
    places = free_places(actors.workers, step)
    waiting = training_waits()
    while not stop.is_set():
        if new := sorted(set(checkpoints()) - seen):
            actors.add([scoring.stage() for scoring in scorings(new)])
            seen.update(new)
        if next(waiting) or actors.idle_seconds > IDLE:
            actors.let_go()
        if actors.wants_more:
            if next(places):
                actors.start()
        else:
            places.close()
            places = free_places(actors.workers, step)
        until = time.monotonic() + PAUSE
        actors.work(PAUSE)
        stop.wait(until - time.monotonic())
    places.close()
    actors.finish(GRACE)


def free_places(workers: WorkersConfig, step: Callable[[], int]) -> Generator[bool, None, None]:
    """Yield at each look whether there is a place for one actor that the training leaves free.

    The place is asked for, so that an autoscaler sees the demand, given back until the training has
    taken a step, and asked for again. Nothing is held when True is yielded.

    A task asks, not a placement group: one that is removed just as it is made can leave its CPUs
    reserved for ever (seen with Ray 2.60).
    """
    ask = _stand.options(**resources_of(workers)).remote
    while True:
        standing = ask()
        try:
            while not _is_done(standing):
                yield False
            reached = step()
            while step() == reached:  # it lies free, for the training if it wants it
                yield False
            standing, until = ask(), time.monotonic() + ASK
            while not (had := _is_done(standing)) and time.monotonic() < until:
                yield False
        finally:
            ray.cancel(standing)  # nothing if it is done
        yield had


def training_waits() -> Iterator[bool]:
    """Yield at each look whether the training has waited for a place since the look before.

    Ray Train asks for places with placement groups.
    """
    job, before = ray.get_runtime_context().get_job_id(), set[str]()
    while True:
        waiting = {
            name
            for name, group in placement_group_table().items()
            if group["state"] in ("PENDING", "RESCHEDULING") and name.endswith(job)
        }
        yield bool(waiting & before)
        before = waiting


@ray.remote(max_retries=0)
def _stand() -> None:
    """Take a place, and leave it at once."""


def _is_done(task: ray.ObjectRef) -> bool:
    done, _ = ray.wait([task], timeout=0.1)  # most are done by then
    return bool(done)
