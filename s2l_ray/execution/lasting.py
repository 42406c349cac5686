"""Actors that make parts and stay alive between them, because starting one costs seconds."""

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
        self.stop_all()
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
        """Whether another actor would have work, and the pool may grow."""
        return len(self.queue) > len(self.idle) and len(self.idle) + len(self.busy) < self.most

    @property
    def idle_seconds(self) -> float:
        """Seconds for which all actors have been without work; 0 if there are none."""
        return 0.0 if self.busy or not self.idle else time.monotonic() - self.worked

    def start(self) -> None:
        """Start another actor."""
        self.idle.append(
            ray.remote(PartMaker).options(**resources_of(self.workers)).remote(*self.constructor)
        )

    def work(self, seconds: float) -> None:
        """Let the actors make parts, until none is left or the time is up.

        Raises an error that a user can fix as it was, NodeFull included. Raises Ray's error if
        actors keep dying and nothing gets made.
        """
        until = time.monotonic() + seconds
        while True:
            while self.queue and self.idle:
                actor, unit = self.idle.pop(), self.queue.popleft()
                self.busy[actor.make.remote(unit)] = actor, unit
            if not self.busy:
                return
            done, _ = ray.wait(list(self.busy), timeout=max(0.0, until - time.monotonic()))
            if not done:
                return
            for call in done:
                self._take(call)

    def finish(self, seconds: float) -> None:
        """Wait for the parts that are being made, at most this long. Drop the queue."""
        self.queue.clear()
        self.work(seconds)

    def stop_all(self) -> None:
        """Kill all actors. Put the parts they were making back at the front of the queue."""
        for actor, unit in reversed(self.busy.values()):
            ray.kill(actor)
            self.queue.appendleft(unit)
        for actor in self.idle:
            ray.kill(actor)
        self.busy, self.idle = {}, []

    def _take(self, call: ray.ObjectRef) -> None:
        actor, unit = self.busy.pop(call)
        self.idle.append(actor)
        try:
            made = get(call)
        except (RayActorError, OutOfMemoryError):
            self.idle.remove(actor)
            ray.kill(actor)  # it may only be out of reach
            self.queue.appendleft(unit)
            self.deaths += 1
            if self.deaths >= MAX_DEATHS:
                raise
            return
        if isinstance(made, NodeFull):
            raise made
        self.deaths, self.worked = 0, time.monotonic()
        self.progress.advance(1)
