"""The chunks of an array, worked on by threads of this process.

For arrays that are small enough: starting actors would take longer than the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from s2l_ray.clustering.chunks import ChunkActor
from s2l_ray.clustering.nearest import one_thread
from s2l_ray.clustering.rows import NO_ROWS, Chunk, Rows
from s2l_ray.execution.tree import Tree


class HeldChunks:
    """Does what an ActorPool of ChunkActor does, with the same bits, without Ray."""

    def __init__(self, losses_NT: np.ndarray, chunk_rows: int) -> None:
        if not len(losses_NT):
            raise ValueError(NO_ROWS)
        self._worker = ChunkActor()
        firsts = range(0, len(losses_NT), chunk_rows)
        ends = [min(first + chunk_rows, len(losses_NT)) for first in firsts]
        self.chunks: Sequence[Chunk] = [
            (first, end, []) for first, end in zip(firsts, ends, strict=True)
        ]
        for first, end, _ in self.chunks:
            self._worker._loaded[first] = Rows([losses_NT[first:end]])

    def each_chunk(self, method: str, *args: Any, only: Iterable[int] | None = None) -> list[Any]:
        chunks = self.chunks if only is None else [self.chunks[number] for number in only]
        work = getattr(self._worker, method)
        # The limit on BLAS threads is the process's: set here once, not by threads in turn.
        with one_thread(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            return [*threads.map(lambda chunk: work(chunk, *args), chunks)]

    def total(self, combine: Callable[[Any, Any], Any], method: str, *args: Any) -> Any:
        tree = Tree(len(self.chunks), combine)
        for number, found in enumerate(self.each_chunk(method, *args)):
            tree.add(0, number, found)
        return tree.total()
