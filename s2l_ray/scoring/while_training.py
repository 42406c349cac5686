"""Score the proxy's checkpoints beside its training, if the cluster has room for that.

The losses become parts of the losses stage, which finds them when its turn comes. Without room
nothing starts, and scoring follows the training.

There is room if a place stays free while the training takes a step. The place of a worker that has
just died is free too, but the training needs it for the next worker.
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

PAUSE = 2.0  # seconds between two rounds
ASK = 5.0  # seconds after which a place counts as taken; Ray may have to start a process
IDLE = 300.0  # seconds after which actors without work are stopped, so that their nodes can go
GRACE = 30.0  # seconds that the end of the training waits for parts that are being scored


@contextmanager
def score_while_training(
    store: Store,
    config: TrajectoriesConfig,
    *,
    checkpoints: Callable[[], list[int]],
    scorings: Callable[[list[int]], list[Scoring]],
    step: Callable[[], int],
) -> Iterator[None]:
    """While the block trains a proxy, score its checkpoints with one pool of actors.

    checkpoints: returns the steps of the checkpoints saved so far. scorings: returns what to score
    for new steps. step: returns the step that the training has reached.

    The pool grows as there is room, and stops if the training waits for a place. An error ends the
    scoring, not the block, and is logged. After KeyboardInterrupt no part is waited for.
    """
    stop, hurry = threading.Event(), threading.Event()

    def work() -> None:
        actors = LastingActors(
            store, make_scorer, (store, config),
            label="score while training", actors=actors_of(config),
        )  # fmt: skip
        try:
            with actors:
                _work(actors, checkpoints, scorings, step, stop)
                if not hurry.is_set():
                    actors.finish(GRACE)
        except Exception as error:
            message = str(error).partition("\n")[0] or repr(error)
            logger.info(f"scoring stopped and will follow the training: {message}")

    thread = threading.Thread(target=work, name="score while training", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        hurry.set()
        raise
    finally:
        stop.set()
        thread.join(GRACE + PAUSE)  # if it hangs, for example on the store, leave it behind


def _work(
    actors: LastingActors,
    checkpoints: Callable[[], list[int]],
    scorings: Callable[[list[int]], list[Scoring]],
    step: Callable[[], int],
    stop: threading.Event,
) -> None:
    seen: set[int] = set()
    places, waits = free_places(actors.workers, step), training_waits()
    while not stop.is_set():
        if new := sorted(set(checkpoints()) - seen):
            actors.add([scoring.stage() for scoring in scorings(new)])
            seen.update(new)
        if next(waits) or actors.idle_seconds > IDLE:
            actors.stop_all()
        if not actors.wants_more:
            places.close()  # ask for no place
            places = free_places(actors.workers, step)
        elif next(places):
            actors.start()
        until = time.monotonic() + PAUSE
        actors.work(PAUSE)
        stop.wait(until - time.monotonic())
    places.close()


def free_places(workers: WorkersConfig, step: Callable[[], int]) -> Generator[bool, None, None]:
    """Yield whether there is a place for one actor beside the training.

    It asks Ray for the place (an autoscaler sees the demand), gives it back until the training has
    taken a step, and asks again. It holds nothing when it yields True.

    It asks with a task. A placement group that is removed while it is made can leave its CPUs
    reserved forever (seen with Ray 2.60).
    """
    ask = _take_place.options(**resources_of(workers)).remote
    while True:
        asked = ask()
        try:
            while not _is_done(asked):
                yield False
            reached = step()
            while step() == reached:  # the training may take the place
                yield False
            asked, until = ask(), time.monotonic() + ASK
            while not (free := _is_done(asked)) and time.monotonic() < until:
                yield False
        finally:
            # Ray 2.60 ends the whole process if a task is cancelled while its result arrives.
            if not _is_done(asked):
                ray.cancel(asked)
        yield free


def training_waits() -> Iterator[bool]:
    """Yield whether the training waits for a place and did so when last asked.

    Ray Train reserves places with placement groups.
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
def _take_place() -> None:
    """Occupy a place for a moment."""


def _is_done(task: ray.ObjectRef) -> bool:
    done, _ = ray.wait([task], timeout=0.1)  # long enough if the place is free
    return bool(done)
