"""Actors that work on chunks of data in passes, as many as the cluster has CPUs for. Nodes
with GPUs do not count if the others have most CPUs.

Actors start as nodes join and take part from the next pass on. If an actor dies, the others do its
chunks in the same pass. Neither changes what a pass returns.

Rows that were on a dead node are read again by Ray tasks, and an actor that waits for these rows
keeps its CPU. So after a death the actors leave one CPU of the cluster free. (A cluster with only
one CPU has none to leave. It waits for a node.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from s2l_ray.execution.nodes import cpu_work, cpus_for_actors
from s2l_ray.execution.remote import get
from s2l_ray.execution.tree import Tree

logger = logging.getLogger(__name__)

_START_SECONDS = 30.0  # that the first pass waits for all actors to start; one is enough after that
_INLINE_BYTES = 2**16  # arguments up to this size travel with the call; Ray's own limit is 100 KB
_MAX_DEATHS = 10  # rounds in a row in which actors died and no chunk was done


class ActorPool:
    """Calls a method of `actor_class` on every chunk, pass after pass.

    actor_class: a Ray actor class. run(chunks, method, *args) returns one result per chunk.
    total(chunks, numbers, leaves, combine, method, *args) combines the results of chunks with these
    numbers in a Tree and returns the nodes that are left; only `total` below needs it.
    num_actors: at most this many, of one CPU each, and at most one per chunk. None takes one per
    CPU of the cluster, counted before each pass. Use the pool in a `with`; its end kills the
    actors.
    """

    def __init__(self, actor_class: Any, chunks: Sequence[Any], num_actors: int | None) -> None:
        self.actor_class, self.chunks, self.num_actors = actor_class, chunks, num_actors
        self.ready: list[Any] = []
        self.starting: dict[ray.ObjectRef, Any] = {}  # by the ref that resolves once it has started
        self.shares: dict[int, list[ray.ObjectRef]] = {}  # of all chunks, by number of actors
        self.deaths = 0  # rounds in a row
        self.spare = 0  # CPUs left free

    def __enter__(self) -> ActorPool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self.ready, *self.starting.values()]:
            ray.kill(actor)

    def each_chunk(self, method: str, *args: Any, only: Iterable[int] | None = None) -> list[Any]:
        """Call `method` on every chunk, or on those with the numbers `only`; return the results in
        this order.

        Raises an error that a user can fix as it was. Raises Ray's error if actors keep dying and
        nothing gets done.
        """
        numbers = [*(range(len(self.chunks)) if only is None else only)]
        results = dict[int, Any]()

        def call(actor: Any, chunks: Any, _: list[int], *sent: Any) -> ray.ObjectRef:
            return actor.run.remote(chunks, method, *sent)

        for mine, found in self._each_share(call, numbers, *args):
            results |= zip(mine, found, strict=True)
        return [results[number] for number in numbers]

    def total(self, combine: Callable[[Any, Any], Any], method: str, *args: Any) -> Any:
        """Call `method` on every chunk; combine the results in a Tree. Errors as in each_chunk.

        Each actor combines those of its own chunks, which are neighbours. So the driver gets a few
        results per actor, not one per chunk.
        """
        tree = Tree(len(self.chunks), combine)

        def call(actor: Any, chunks: Any, mine: list[int], *sent: Any) -> ray.ObjectRef:
            return actor.total.remote(chunks, mine, tree.leaves, combine, method, *sent)

        for _, nodes in self._each_share(call, [*range(tree.leaves)], *args):
            for node in nodes:
                tree.add(*node)
        return tree.total()

    def _each_share(
        self, call: Callable[..., ray.ObjectRef], numbers: list[int], *args: Any
    ) -> Iterator[tuple[list[int], Any]]:
        """Yield the numbers of some neighbouring chunks and what an actor returned for them, until
        all are done. call(actor, chunks, numbers, *args) calls it."""
        # Large arguments are sent to each node once.
        sent = [ray.put(arg) if getattr(arg, "nbytes", 0) > _INLINE_BYTES else arg for arg in args]
        todo = numbers
        while todo:
            self._join()
            count = min(len(self.ready), len(todo))
            cuts = [len(todo) * n // count for n in range(count + 1)]
            mines = [todo[cuts[n] : cuts[n + 1]] for n in range(count)]
            calls = {
                call(actor, share, mine, *sent): (actor, mine)
                for actor, share, mine in zip(self.ready, self._shares(mines), mines, strict=False)
            }
            todo, dead, done = [], list[Exception](), False
            while calls:
                [ref], _ = ray.wait(list(calls))
                actor, mine = calls.pop(ref)
                try:
                    found = get(ref)
                except (RayActorError, OutOfMemoryError) as error:
                    if actor in self.ready:  # otherwise we killed it
                        self.ready.remove(actor)
                        dead.append(error)
                        self._leave_room()
                    todo = sorted([*todo, *mine])
                else:
                    done = True
                    yield mine, found
            self._count_deaths(dead, done)

    def _shares(self, mines: list[list[int]]) -> list[ray.ObjectRef]:
        count, whole = len(mines), sum(map(len, mines)) == len(self.chunks)
        if whole and count in self.shares:
            return self.shares[count]
        shares = [ray.put([self.chunks[number] for number in mine]) for mine in mines]
        if whole:
            self.shares = {count: shares}
        return shares

    def _join(self) -> None:
        """Start missing actors and take in those that have started; wait for at least one."""
        before, seconds = len(self.ready), 0.0 if self.ready else _START_SECONDS
        while True:
            have = cpus_for_actors()
            target = min(self.num_actors or have, len(self.chunks))
            if self.spare:
                target = min(target, have - self.spare)
            target = max(1, target)
            for _ in range(target - len(self.ready) - len(self.starting)):
                actor = self.actor_class.options(**cpu_work()).remote()
                self.starting[actor.__ray_ready__.remote()] = actor
            refs = list(self.starting)
            started, _ = (
                ray.wait(refs, num_returns=len(refs), timeout=seconds) if refs else ([], [])
            )
            dead = list[Exception]()
            for ref in started:
                actor = self.starting.pop(ref)
                try:
                    ray.get(ref)
                    self.ready.append(actor)
                except (RayActorError, OutOfMemoryError) as error:
                    dead.append(error)
            self._count_deaths(dead, done=False)
            if self.ready:
                break
            if self.starting:
                logger.warning(f"{len(self.starting)} actors are waiting for a CPU")
        if before and len(self.ready) != before:
            logger.info(f"{len(self.ready)} of {target} actors are running")

    def _count_deaths(self, dead: list[Exception], done: bool) -> None:
        """Raise the last death if nothing else happens any more.

        Deaths of one round count once: a node takes all its actors with it.
        """
        for error in dead:
            logger.warning(f"an actor died: {str(error).partition(chr(10))[0]}")
        self.deaths = 0 if done else self.deaths + bool(dead)
        if self.deaths >= _MAX_DEATHS:
            raise dead[-1]

    def _leave_room(self) -> None:
        """Kill actors, busy ones too, until one CPU is free."""
        self.spare = 1
        for actor in self.starting.values():
            ray.kill(actor)
        self.starting = {}
        while len(self.ready) > max(1, cpus_for_actors() - self.spare):
            ray.kill(self.ready.pop())
