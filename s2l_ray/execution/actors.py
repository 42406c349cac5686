"""Actors that work on chunks of data in passes, as many as the cluster has room for just then.

Between two passes actors join that have found a CPU, on a node that came, say; the chunks of one
that died go to the others in the same pass. What a pass returns depends on neither.

Rows that were on a dead node are read again by Ray's tasks, while an actor that waits for them
keeps its CPU: after a death, actors leave one CPU of the cluster free. (A cluster that is down to
one CPU has none to leave, and waits for a node.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from s2l_ray.execution.nodes import num_cpus
from s2l_ray.execution.remote import get

logger = logging.getLogger(__name__)
_START_SECONDS = 30.0  # that the first pass waits for more actors than one
_INLINE_BYTES = 2**16  # Ray's own limit is 100 KB
_MAX_DEATHS = 10  # rounds in a row in which actors died and no chunk was done


class Pool:
    """`actor_class` has a method run(chunks, method, *args) that returns a result for each chunk.

    num_actors: how many are wanted, one CPU each, at most one per chunk; None: one for each CPU
    that the cluster has, counted before each pass. Use it in a `with`, whose end ends the actors.
    """

    def __init__(self, actor_class: Any, chunks: Sequence[Any], num_actors: int | None) -> None:
        self.actor_class, self.chunks, self.num_actors = actor_class, chunks, num_actors
        self.ready: list[Any] = []
        self.starting: dict[ray.ObjectRef, Any] = {}  # by what resolves when an actor has started
        self.shares: dict[int, list[ray.ObjectRef]] = {}  # of all chunks, by the number of actors
        self.deaths = 0  # rounds of them in a row
        self.spare = 0  # CPUs left free

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self.ready, *self.starting.values()]:
            ray.kill(actor)

    def each_chunk(self, method: str, *args: Any) -> list[Any]:
        """actor.run([chunk], method, *args) for every chunk: the results in the order of chunks.

        Raises an error that a user can fix as it was, and Ray's error if actors die again and again
        and nothing is done.
        """
        # Small ones travel with the call; the others are sent once to each node.
        sent = [ray.put(arg) if getattr(arg, "nbytes", 0) > _INLINE_BYTES else arg for arg in args]
        results: list[Any] = [None] * len(self.chunks)
        todo = list(range(len(self.chunks)))
        while todo:
            self._join()
            count = len(self.ready)
            indices = [todo[n::count] for n in range(count)]
            shares = self._shares(todo, indices)
            calls = {
                actor.run.remote(share, method, *sent): (actor, mine)
                for actor, share, mine in zip(self.ready, shares, indices, strict=True)
            }
            todo, dead, done = [], list[Exception](), False
            while calls:
                [call], _ = ray.wait(list(calls))
                actor, mine = calls.pop(call)
                try:
                    found = get(call)
                except (RayActorError, OutOfMemoryError) as error:
                    if actor in self.ready:  # else it was let go
                        self.ready.remove(actor)
                        dead.append(error)
                        self._leave_room()
                    todo = sorted([*todo, *mine])
                else:
                    done = True
                    for index, result in zip(mine, found, strict=True):
                        results[index] = result
            self._mourn(dead, done)
        return results

    def _shares(self, todo: list[int], indices: list[list[int]]) -> list[ray.ObjectRef]:
        count = len(indices)
        if len(todo) == len(self.chunks) and count in self.shares:
            return self.shares[count]
        shares = [ray.put([self.chunks[index] for index in mine]) for mine in indices]
        if len(todo) == len(self.chunks):
            self.shares = {count: shares}
        return shares

    def _join(self) -> None:
        """Ask for the actors that are wanted and take in those that have started, at least one."""
        before, seconds = len(self.ready), 0.0 if self.ready else _START_SECONDS
        while True:
            have = num_cpus()
            wanted = min(self.num_actors or have, len(self.chunks))
            if self.spare:
                wanted = min(wanted, have - self.spare)
            wanted = max(1, wanted)
            for _ in range(wanted - len(self.ready) - len(self.starting)):
                actor = self.actor_class.remote()
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
            self._mourn(dead, done=False)
            if self.ready:
                break
            if self.starting:
                logger.warning("%d actors wait for a CPU", len(self.starting))
        if before and len(self.ready) != before:
            logger.info("%d of %d actors at work", len(self.ready), wanted)

    def _mourn(self, dead: list[Exception], done: bool) -> None:
        """Give up where nothing else happens any more. (A node takes all its actors at once.)"""
        for error in dead:
            logger.warning("an actor died: %s", str(error).partition("\n")[0])
        self.deaths = 0 if done else self.deaths + bool(dead)
        if self.deaths >= _MAX_DEATHS:
            raise dead[-1]

    def _leave_room(self) -> None:
        """Let actors go, those that are at work too, until a CPU is free."""
        self.spare = 1
        for actor in self.starting.values():
            ray.kill(actor)
        self.starting = {}
        while len(self.ready) > max(1, num_cpus() - self.spare):
            ray.kill(self.ready.pop())
