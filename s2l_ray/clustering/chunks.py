"""The actors of k-means: they hold chunks of trajectories and make passes over them.

N examples, n of a chunk, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.sparse import csc_array

from s2l_ray.clustering.nearest import assign, nearest, with_ones
from s2l_ray.clustering.rows import Rows, decode
from s2l_ray.execution.tree import Node, Tree

CHUNK_ROWS = 2**14  # of a chunk, unless another number is asked for


class Sample(NamedTuple):
    """How to sample about `rows` of `of_rows`. inertia: of all rows, about their mean."""

    rows: int
    of_rows: int
    inertia: float
    seed: int


class ChunkActor:
    """Works on chunks (rows.Chunk). Its results are functions of the arguments, whatever the actor.

    Below `total` there is one method per kind of pass over a chunk. In their arguments and results,
    rows and `centers_KT` are float64 and have `mean_T` subtracted, against cancellation.
    """

    def __init__(self):
        self._loaded = {}  # Rows by first row
        self._sampled = {}  # (size of the whole sample, places, weights) by first row
        self._shared = Counter[Any]()  # rows of each block in this actor's chunks

    def run(self, chunks, method, *args) -> list:
        """See ActorPool."""
        self._forget_others(chunks)
        return [getattr(self, method)(chunk, *args) for chunk in chunks]

    def total(self, chunks, numbers, leaves, combine, method, *args) -> list[Node]:
        """See ActorPool."""
        self._forget_others(chunks)
        tree = Tree(leaves, combine)
        for number, chunk in zip(numbers, chunks, strict=True):
            tree.add(0, number, getattr(self, method)(chunk, *args))
        return tree.nodes()

    def _forget_others(self, chunks) -> None:
        self._shared = Counter()
        for ref, start, stop in chain.from_iterable(slices for _, _, slices in chunks):
            self._shared[ref] += stop - start
        for first_row in self._loaded.keys() - {chunk[0] for chunk in chunks}:
            del self._loaded[first_row]  # another actor has it now
            self._sampled.pop(first_row, None)

    def _rows(self, chunk) -> Rows:
        first_row, _, slices = chunk
        if first_row not in self._loaded:
            import ray

            blocks = ray.get([ref for ref, _, _ in slices])
            if isinstance(blocks[0], np.ndarray):  # of an array: one object per chunk
                self._loaded[first_row] = Rows(blocks)
            else:
                pieces, few = [], list[bool]()
                for block, (ref, start, stop) in zip(blocks, slices, strict=True):
                    if not isinstance(block, pa.Table):
                        block = pa.Table.from_pandas(block, preserve_index=False)
                    found = block["losses"].slice(start, stop - start).chunks
                    pieces += found
                    few += [2 * self._shared[ref] < block.num_rows] * len(found)
                # A view keeps the whole block in this node's object store.
                views = zip(decode(pieces, first_row), few, strict=True)
                self._loaded[first_row] = Rows([v.copy() if copy else v for v, copy in views])
        return self._loaded[first_row]

    def _members(self, chunk, mean_T, sample):
        """Return the rows with a last column of ones [n, T + 1], and weights [n], or None if all
        are 1. sample: None for all rows of the chunk."""
        if sample is None:
            return with_ones(self._rows(chunk).all(), mean_T), None
        places_n, weight_n = self._sample_places(chunk, mean_T, sample)
        return with_ones(self._rows(chunk).at(places_n), mean_T), weight_n

    def sample(self, chunk, mean_T, sample):
        """Sample the chunk. Return rows [n, T], and weights [n] that stand for the other rows.

        One half of a row's probability is uniform. The other half is proportional to its squared
        distance from the mean, so that the sample has the far rows, which decide k-means
        (lightweight coresets: Bachem, Lucic, Krause 2018).
        """
        x1_nT, weight_n = self._members(chunk, mean_T, sample)
        return x1_nT[:, :-1], weight_n

    def _sample_places(self, chunk, mean_T, sample):
        kept, *found = self._sampled.get(chunk[0], (None,))
        if kept != sample.rows:
            x_nT = self._rows(chunk).all() - mean_T
            squared = np.einsum("nt,nt->n", x_nT, x_nT)
            chance = (
                sample.rows * 0.5 * (1 / sample.of_rows + squared / max(sample.inertia, 1e-300))
            )
            chance = np.minimum(chance, 1.0)
            draws = np.random.default_rng([sample.seed, sample.rows, chunk[0]])
            drawn = np.flatnonzero(draws.random(len(chance)) < chance)
            found = [drawn.astype(np.int32), 1 / chance[drawn]]
            self._sampled[chunk[0]] = sample.rows, *found
        return found

    def take(self, chunk, numbers):
        """Return the rows of these numbers in row order, ascending, that the chunk has [n, T]."""
        first_row, end_row, _ = chunk
        first, end = np.searchsorted(numbers, (first_row, end_row))
        return self._rows(chunk).at(numbers[first:end] - first_row)

    def inspect(self, chunk):
        """Return (losses per row, rows with NaN or inf, the first such row, sum of rows [T])."""
        losses_nT = self._rows(chunk).all()
        bad = np.flatnonzero(~np.isfinite(losses_nT).all(axis=1))
        if bad.size:
            return losses_nT.shape[1], bad.size, chunk[0] + int(bad[0]), None
        return losses_nT.shape[1], 0, None, losses_nT.sum(axis=0, dtype=np.float64)

    def distinct(self, chunk, limit):
        """Return up to `limit` distinct rows, as bytes."""
        seen: set[bytes] = set()
        for row_T in self._rows(chunk).all():
            seen.add((row_T + 0.0).tobytes())  # -0.0 equals 0.0 but has other bytes
            if len(seen) >= limit:
                break
        return list(seen)

    def squared_deviations(self, chunk, mean_T):
        return ((self._rows(chunk).all() - mean_T) ** 2).sum(axis=0)

    def partials(self, chunk, mean_T, centers_KT, sample):
        """Return (sums of the clusters' members, and in the last column their weights [K, T + 1],
        gain).

        gain: the inertia minus the inertia about the mean.
        """
        x1_nT, weight_n = self._members(chunk, mean_T, sample)
        cluster_id, score_n = nearest(x1_nT, centers_KT)
        ones, first = np.ones(len(x1_nT)), np.arange(len(x1_nT) + 1)
        weight_n = ones if weight_n is None else weight_n
        member_Kn = csc_array((weight_n, cluster_id, first), shape=(len(centers_KT), len(x1_nT)))
        return member_Kn @ x1_nT, float(score_n @ weight_n)

    def inertia(self, chunk, mean_T, centers_KT):
        return float(assign(self._rows(chunk).all() - mean_T, centers_KT)[1].sum())

    def farthest(self, chunk, mean_T, centers_KT, sample, count):
        """Return the `count` rows farthest from their centers.

        Each is (squared distance, number in row order, cluster, row and 1 [T + 1], weight).
        """
        x1_nT, weight_n = self._members(chunk, mean_T, sample)
        cluster_id, _ = nearest(x1_nT, centers_KT)
        squared = ((x1_nT[:, :-1] - centers_KT[cluster_id]) ** 2).sum(axis=1)
        weight_n = np.ones(len(x1_nT)) if weight_n is None else weight_n
        return [
            (squared[n], chunk[0] + n, cluster_id[n], x1_nT[n], weight_n[n])
            for n in np.argsort(-squared, kind="stable")[:count]
        ]


def farthest_of(count: int, *found: list) -> list:
    """Return the `count` farthest of (squared distance, row, ...). Ties go to the lowest row."""
    return sorted(chain(*found), key=lambda item: (-item[0], item[1]))[:count]
