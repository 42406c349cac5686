"""Actors that make parts and stay when there is nothing to do: starting one costs seconds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from s2l_ray.errors import NodeFull
from s2l_ray.execution.nodes import resources_of
from s2l_ray.execution.parts import Actors, PartMaker, StageParts, Work
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.remote import get
from s2l_ray.store import Store

MAX_DEATHS = 5  # of actors in a row, without a part made


class LastingActors:
    """Makes the parts of stages that are added over time, and commits none of them.

    `make_parts` finds these parts later. The caller decides when an actor starts (`start`) and when
    all are let go (`let_go`); the parts they had under way are then queued again. Use it in a
    `with`, whose end lets all actors go. For one thread.
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
        self.store, self.workers = store, actors.workers
        self.most = max(actors.max_workers or 0, actors.workers.num_workers)
        self.constructor = store, suffix, make_work, args
        self.queue = deque[dict[str, Any]]()
        self.idle: list[Any] = []
        self.busy: dict[ray.ObjectRef, tuple[Any, dict[str, Any]]] = {}
        self.deaths, self.worked = 0, time.monotonic()
        self.progress = Progress(label, total=0, unit="parts")

    def __enter__(self) -> LastingActors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.let_go()
        if self.progress.total:
            self.progress.__exit__(kind, error, trace)

    def add(self, stages: list[StageParts]) -> None:
        """Queue the parts of these stages."""
        for stage in stages:
            found = self.store.found(stage.folder)
            for unit in stage.units:
                todo = unit | {"folder": stage.folder, "found": found.get(unit["unit"])}
                self.queue.append(todo)
                self.progress.total += 1

    @property
    def wants_more(self) -> bool:
        """Whether another actor would have something to do."""
        return len(self.queue) > len(self.idle) and len(self.idle) + len(self.busy) < self.most

    @property
    def idle_seconds(self) -> float:
        """How long all actors have had nothing to do; 0 if there are none."""
        return 0.0 if self.busy or not self.idle else time.monotonic() - self.worked

    def start(self) -> None:
        """Start another actor; it is given work at once."""
        self.idle.append(
            ray.remote(PartMaker).options(**resources_of(self.workers)).remote(*self.constructor)
        )

    def work(self, seconds: float) -> None:
        """Give idle actors work and take in what is made, for so long or until nothing is left.

        Raises an error that a user can fix as it was; NodeFull too, rather than look for another
        node; Ray's if actors die again and again.
        """
        until = time.monotonic() + seconds
        while True:
            while self.queue and self.idle:
                actor, unit = self.idle.pop(), self.queue.popleft()
                self.busy[actor.make.remote(unit)] = actor, unit
            left = until - time.monotonic()
            if not self.busy or left <= 0:
                return
            done, _ = ray.wait(list(self.busy), timeout=left)
            for call in done:
                self._take(call)

    def finish(self, seconds: float) -> None:
        """Wait so long for the parts under way, and begin no others."""
        self.queue.clear()
        self.work(seconds)

    def let_go(self) -> None:
        """End all actors. The parts they had under way are queued again, first."""
        for actor, unit in reversed(self.busy.values()):
            ray.kill(actor)
            self.queue.appendleft(unit)
        for actor in self.idle:
            ray.kill(actor)
        self.busy, self.idle = {}, []

    def _take(self, call: ray.ObjectRef) -> None:
        actor, unit = self.busy.pop(call)
        try:
            made = get(call)
        except (RayActorError, OutOfMemoryError):
            self.queue.appendleft(unit)
            self.deaths += 1
            if self.deaths >= MAX_DEATHS:
                raise
            return
        self.idle.append(actor)
        if isinstance(made, NodeFull):
            raise made
        self.deaths, self.worked = 0, time.monotonic()
        self.progress.advance(1)
