"""Actors that work on chunks of data in passes, as many as the cluster has room for just then.

Between two passes actors join that have found a CPU, on a node that came, say; the chunks of one
that died go to the others in the same pass. What a pass returns depends on neither.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

logger = logging.getLogger(__name__)

_START_SECONDS = 30.0  # that the first pass waits for more actors than one
_INLINE_BYTES = 2**16  # Ray's own limit is 100 KB
_MAX_DEATHS = 10  # in a row, without a chunk done between them


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
        self.deaths = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self.ready, *self.starting.values()]:
            ray.kill(actor)

    def each_chunk(self, method: str, *args: Any) -> list[Any]:
        """actor.run([chunk], method, *args) for every chunk: the results in the order of chunks.

        Raises the ValueError of a chunk as it was, and Ray's error where actors die again and again
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
            calls = [
                actor.run.remote(share, method, *sent)
                for actor, share in zip(self.ready, self._shares(todo, indices), strict=True)
            ]
            todo = []
            for actor, call, mine in zip(list(self.ready), calls, indices, strict=True):
                try:
                    found = ray.get(call)
                except ValueError as error:  # Ray's own class: show what the user did
                    raise getattr(error, "cause", error) from None
                except (RayActorError, OutOfMemoryError) as error:
                    self._bury(actor, error)
                    todo = sorted([*todo, *mine])
                else:
                    self.deaths = 0
                    for index, result in zip(mine, found, strict=True):
                        results[index] = result
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
            wanted = self.num_actors or int(ray.cluster_resources().get("CPU", 1))
            wanted = max(1, min(wanted, len(self.chunks)))
            for _ in range(wanted - len(self.ready) - len(self.starting)):
                actor = self.actor_class.remote()
                self.starting[actor.__ray_ready__.remote()] = actor
            refs = list(self.starting)
            started, _ = (
                ray.wait(refs, num_returns=len(refs), timeout=seconds) if refs else ([], [])
            )
            for ref in started:
                actor = self.starting.pop(ref)
                try:
                    ray.get(ref)
                    self.ready.append(actor)
                except (RayActorError, OutOfMemoryError) as error:
                    self._bury(actor, error)
            if self.ready:
                break
            if self.starting:
                logger.warning("%d actors wait for a CPU", len(self.starting))
        if len(self.ready) != before:
            logger.info("%d of %d actors at work", len(self.ready), wanted)

    def _bury(self, actor: Any, error: Exception) -> None:
        if actor in self.ready:
            self.ready.remove(actor)
        self.deaths += 1
        logger.warning("an actor died: %s", str(error).partition("\n")[0])
        if self.deaths >= _MAX_DEATHS:
            raise error
