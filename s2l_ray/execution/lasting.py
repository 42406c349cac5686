"""Actors that make parts and stay alive between them, because starting one costs seconds.

An actor that dies, fills its node's disk or meets a failing GPU is replaced, and another makes its
part. Nodes with full disks are avoided at once, those with failing GPUs after a few failures.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from s2l_ray.errors import GPUFailed, NodeFull
from s2l_ray.execution import deadline
from s2l_ray.execution.making import Actors, PartMaker, StageParts, Work
from s2l_ray.execution.nodes import away_from, resources_of
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.remote import get
from s2l_ray.execution.waiting import Unit, Waiting
from s2l_ray.formatting import plural
from s2l_ray.store import Part, Store

logger = logging.getLogger(__name__)

MAX_DEATHS = 5  # of actors with one part, or of one actor after another as they start
FINISHING = 300.0  # seconds for the parts that are being made as a limit is reached
MAX_GPU_FAILURES = 3  # on a node, which is then avoided

Made = tuple[str, Part]  # a stage's folder, and a part of it


class LastingActors:
    """Makes the parts of stages that are added over time. Commits nothing: make_parts finds them.

    The caller decides when to start an actor and when to stop all of them. Use it from one thread
    and in a `with`, whose end stops them.
    """

    def __init__(
        self,
        store: Store,
        make_work: Callable[..., Work],
        args: tuple[Any, ...],
        *,
        label: str,
        actors: Actors,
        suffix: str = "arrow",
    ) -> None:
        self.store, self.workers, self.label = store, actors.workers, label
        self.most = max(actors.max_workers or 0, actors.workers.num_workers)
        self.actor_class: Any = ray.remote(PartMaker)
        self.constructor = store, suffix, make_work, args
        self.waiting = Waiting()
        self.starting: dict[ray.ObjectRef, Any] = {}  # by the ref that resolves once it has started
        self.idle: list[Any] = []
        self.busy: dict[ray.ObjectRef, tuple[Any, Any, Unit]] = {}  # actor, wave, unit
        self.stages, self.worked = 0, time.monotonic()
        self.deaths = Counter[str]()  # by unit, or "" for actors that did not start
        self.failures = Counter[str]()  # of GPUs, by node
        self.avoided: dict[str, NodeFull | GPUFailed] = {}  # by node
        self.progress = Progress(label, total=0, unit="parts")
        self.begun = False

    def __enter__(self) -> LastingActors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_all()
        if self.begun:
            self.progress.__exit__(kind, error, trace)

    def add(self, stages: list[StageParts]) -> None:
        """Queue the parts of these stages."""
        for stage in stages:
            for unit in with_found(self.store, stage):
                self.waiting.add(unit, (self.stages, unit.get("wave", 0)))
                self.progress.total += 1
            self.stages += 1

    @property
    def wants_more(self) -> bool:
        """Whether another actor would have work, and the pool may grow."""
        free = len(self.idle) + len(self.starting)
        return len(self.waiting) > free and free + len(self.busy) < self.most

    @property
    def idle_seconds(self) -> float:
        """Seconds for which all actors have been without work; 0 if there are none."""
        return 0.0 if self.busy or not self.idle else time.monotonic() - self.worked

    def start(self) -> None:
        """Start another actor. Raises NodeFull or GPUFailed if only avoided nodes have room."""
        if not self.begun:
            self.begun = True
            started = plural(min(self.most, len(self.waiting)), "worker")
            self.progress.note = f"starting {started}"
            self.progress.__enter__()
        options = {"label_selector": away_from(self.avoided, self.workers)}
        options |= resources_of(self.workers)
        actor = self.actor_class.options(**options).remote(*self.constructor)
        self.starting[actor.__ray_ready__.remote()] = actor

    def work(self, seconds: float) -> list[Made]:
        """Let the actors make parts, until none is left or the time is up. Return those made.

        Raises an error that a user can fix as it was. Raises Ray's error if actors keep dying with
        one part.
        """
        found, until = list[Made](), time.monotonic() + seconds
        while True:
            while self.idle and (taken := self.waiting.take(self.idle[-1])):
                actor, (wave, unit) = self.idle.pop(), taken
                call = actor.make.remote(unit, self.waiting.next_of(actor))
                self.busy[call] = actor, wave, unit
            if not self.busy and not (self.starting and self.waiting):
                return found
            done, _ = ray.wait(
                [*self.busy, *self.starting], timeout=max(0.0, until - time.monotonic())
            )
            if not done:
                return found
            for ref in done:
                if ref in self.starting:
                    self._join(ref)
                elif made := self._take(ref):
                    found.append(made)

    def all_made(self) -> Iterator[Made]:
        """Start as many actors as there may be, and yield all parts as they are made.

        Actors that no part waits for are stopped, so that their nodes can go. LimitReached if the
        time is over before all parts are made.
        """
        while self.waiting or self.busy:
            if self.waiting and (deadline.seconds_left() or 1.0) <= 0:
                self.finish(FINISHING)  # the next start finds these parts
                deadline.check()
            while self.wants_more:
                self.start()
            if not self.waiting:
                self._stop_unused()
            yield from self.work(1.0)

    def finish(self, seconds: float) -> None:
        """Wait for the parts that are being made, at most this long. Drop the queue."""
        self.waiting.clear()
        self.work(seconds)

    def stop_all(self) -> None:
        """Kill all actors. The parts they were making wait again."""
        for actor, wave, unit in self.busy.values():
            self._drop(actor)
            self.waiting.add(unit, wave)
        self.busy = {}
        self._stop_unused()

    def _stop_unused(self) -> None:
        for actor in [*self.idle, *self.starting.values()]:
            self._drop(actor)
        self.idle, self.starting = [], {}

    def _drop(self, actor: Any) -> None:
        self.waiting.forget(actor)
        ray.kill(actor)  # if it has died, it may only be out of reach

    def _join(self, ref: ray.ObjectRef) -> None:
        actor = self.starting.pop(ref)
        try:
            ray.get(ref)
        except (RayActorError, OutOfMemoryError):
            self._drop(actor)
            self._count_death("")
        else:
            self.idle.append(actor)

    def _take(self, call: ray.ObjectRef) -> Made | None:
        """Return the part that a call made; None if its unit waits again."""
        actor, wave, unit = self.busy.pop(call)
        try:
            made = get(call)
        except (RayActorError, OutOfMemoryError):
            self._drop(actor)
            self.waiting.add(unit, wave)
            self._count_death(f"{unit['folder']}/{unit['unit']}")
            return None
        except BaseException:
            self._drop(actor)
            raise
        if isinstance(made, NodeFull | GPUFailed):
            self._drop(actor)
            self.waiting.add(unit, wave)
            self._count_failure(made)
            return None
        self.idle.append(actor)
        self.deaths[""], self.worked = 0, time.monotonic()
        self.progress.advance(1, found=unit["found"] is not None)
        return unit["folder"], made

    def _count_death(self, cause: str) -> None:
        """Called in the handler of the actor's error, which it raises after too many."""
        self.deaths[cause] += 1
        # The actors of a lost node that are starting all die at once.
        if self.deaths[cause] >= MAX_DEATHS + (0 if cause else self.most):
            raise

    def _count_failure(self, error: NodeFull | GPUFailed) -> None:
        self.failures[error.node] += 1
        if isinstance(error, GPUFailed) and self.failures[error.node] < MAX_GPU_FAILURES:
            logger.warning(f"{self.label}: {error}; another actor makes its part")
            return
        if error.node not in self.avoided:
            logger.info(f"{self.label}: {error}; its parts go to other nodes")
        self.avoided[error.node] = error
        away_from(self.avoided, self.workers)  # raises if there are none


def with_found(store: Store, stage: StageParts) -> Iterator[Unit]:
    """Yield a stage's units with its folder, and the part of each that an earlier run left."""
    found = store.found(stage.folder)
    for unit in stage.units:
        yield unit | {"folder": stage.folder, "found": found.get(unit["unit"])}
