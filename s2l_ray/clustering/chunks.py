"""The actors of k-means: they hold chunks of trajectories and make passes over them.

N examples, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from s2l_ray.clustering.nearest import assign, nearest, one_thread, tile_rows, with_ones
from s2l_ray.clustering.rows import Chunk, decode

CHUNK_ROWS = 65536  # of a chunk, unless another number is asked for
_TILE_ROWS = 4096  # rows converted to float64 at a time


class Sample(NamedTuple):
    """How to sample about `rows` of `of_rows`. inertia: of all rows, about their mean."""

    rows: int
    of_rows: int
    inertia: float
    seed: int


class ChunkActor:
    """Works on chunks (rows.Chunk). `run` is a pure function of its arguments, whatever the actor.

    Below `run` there is one method per kind of pass. In their arguments and results, rows and
    `centers_KT` are float64 and have `mean_T` subtracted, against cancellation.
    """

    def __init__(self):
        self._loaded = {}  # by first row
        self._sampled = {}  # by first row and size of the whole sample; one size at a time

    def run(self, chunks, method, *args) -> list:
        for first_row in self._loaded.keys() - {chunk[0] for chunk in chunks}:
            del self._loaded[first_row]  # another actor has it now
            self._sampled = {k: v for k, v in self._sampled.items() if k[0] != first_row}
        return [getattr(self, method)(chunk, *args) for chunk in chunks]

    def _rows(self, chunk) -> np.ndarray:
        first_row, _, slices = chunk
        if first_row not in self._loaded:
            import ray

            blocks = ray.get([ref for ref, _, _ in slices])
            if isinstance(blocks[0], np.ndarray):  # one object per chunk
                self._loaded[first_row] = blocks[0]
            else:
                pieces, whole = [], True
                for block, (_, start, stop) in zip(blocks, slices, strict=True):
                    if not isinstance(block, pa.Table):
                        block = pa.Table.from_pandas(block, preserve_index=False)
                    whole = whole and stop - start == block.num_rows
                    pieces += block["losses"].slice(start, stop - start).chunks
                losses_NT = decode(pieces, first_row)
                # A view of part of a block would keep the whole block in every node's object store.
                self._loaded[first_row] = losses_NT if whole else losses_NT.copy()
        return self._loaded[first_row]

    def _tiles(self, chunk, mean_T) -> Iterator[np.ndarray]:
        losses_NT = self._rows(chunk)
        for tile in _tiles_of(losses_NT):
            yield losses_NT[tile].astype(np.float64, order="C") - mean_T

    def sample(self, chunk, mean_T, sample):
        """Sample the chunk. Return rows [N, T], and weights [N] that stand for the other rows.

        One half of a row's probability is uniform. The other half is proportional to its squared
        distance from the mean, so that the sample has the far rows, which decide k-means
        (lightweight coresets: Bachem, Lucic, Krause 2018).
        """
        key = chunk[0], sample.rows
        if key not in self._sampled:
            squared = np.concatenate(
                [np.einsum("nt,nt->n", tile, tile) for tile in self._tiles(chunk, mean_T)]
            )
            chance = (
                sample.rows * 0.5 * (1 / sample.of_rows + squared / max(sample.inertia, 1e-300))
            )
            chance = np.minimum(chance, 1.0)
            draws = np.random.default_rng([sample.seed, sample.rows, chunk[0]])
            drawn = np.flatnonzero(draws.random(len(chance)) < chance)
            x1_NT = np.ones((len(drawn), len(mean_T) + 1))
            np.subtract(self._rows(chunk)[drawn], mean_T, out=x1_NT[:, :-1])
            self._sampled = {k: v for k, v in self._sampled.items() if k[1] == sample.rows}
            self._sampled[key] = x1_NT, 1 / chance[drawn]
        x1_NT, weight_N = self._sampled[key]
        return x1_NT[:, :-1], weight_N

    def _members(self, chunk, mean_T, centers_KT, sample):
        """Yield what `nearest` yields for the rows or the sample, and weights (None: all are 1)."""
        if sample is None:
            tiles = with_ones(self._rows(chunk), mean_T, len(centers_KT))
            for members in nearest(tiles, centers_KT):
                yield *members, None
        else:
            _, weight_N = self.sample(chunk, mean_T, sample)
            x1_NT, _ = self._sampled[chunk[0], sample.rows]
            rows = tile_rows(len(centers_KT))
            tiles = (x1_NT[first : first + rows] for first in range(0, len(x1_NT), rows))
            first = 0
            for members in nearest(tiles, centers_KT):
                count = len(members[0])
                yield *members, weight_N[first : first + count]
                first += count

    def inspect(self, chunk):
        """Return (losses per row, rows with NaN or inf, the first such row, sum of rows [T])."""
        losses_NT = self._rows(chunk)
        bad = np.flatnonzero(~np.isfinite(losses_NT).all(axis=1))
        if bad.size:
            return losses_NT.shape[1], bad.size, chunk[0] + int(bad[0]), None
        sum_T = sum(tile_NT.sum(axis=0) for tile_NT in self._tiles(chunk, 0.0))
        return losses_NT.shape[1], 0, None, sum_T

    def distinct(self, chunk, limit):
        """Return up to `limit` distinct rows, as bytes."""
        seen: set[bytes] = set()
        for tile_NT in self._tiles(chunk, 0.0):
            seen.update(map(bytes, tile_NT + 0.0))  # -0.0 equals 0.0 but has other bytes
            if len(seen) >= limit:
                break
        return list(seen)[:limit]

    def squared_deviations(self, chunk, mean_T):
        return sum((tile_NT**2).sum(axis=0) for tile_NT in self._tiles(chunk, mean_T))

    def partials(self, chunk, mean_T, centers_KT, sample):
        """Return (sums of the clusters' members [K, T], their weights [K], gain).

        gain: the inertia minus the inertia about the mean.
        """
        K, T = centers_KT.shape
        sum_KT, weight_K, gain = np.zeros((K, T)), np.zeros(K), 0.0
        with one_thread():
            for x_NT, cluster_id, score, weight in self._members(chunk, mean_T, centers_KT, sample):
                for t in range(T):
                    x_N = x_NT[:, t] if weight is None else x_NT[:, t] * weight
                    sum_KT[:, t] += np.bincount(cluster_id, x_N, minlength=K)
                weight_K += np.bincount(cluster_id, weight, minlength=K)
                gain += float(score.sum() if weight is None else score @ weight)
        return sum_KT, weight_K, gain

    def inertia(self, chunk, mean_T, centers_KT):
        return sum(float(assign(x_NT, centers_KT)[1].sum()) for x_NT in self._tiles(chunk, mean_T))

    def farthest(self, chunk, mean_T, centers_KT, sample, count):
        """Return the `count` rows farthest from their centers.

        Each is (squared distance, number in row order, cluster, row [T], weight).
        """
        found, row = [], chunk[0]
        with one_thread():
            for x_NT, cluster_id, _, weight in self._members(chunk, mean_T, centers_KT, sample):
                squared = ((x_NT - centers_KT[cluster_id]) ** 2).sum(axis=1)
                top = np.argsort(-squared, kind="stable")[:count]
                weight = np.ones(len(x_NT)) if weight is None else weight
                found += [
                    (squared[n], row + n, cluster_id[n], x_NT[n].copy(), weight[n]) for n in top
                ]
                row += len(x_NT)
        return farthest_of(found, count)


class HeldChunks(ChunkActor):
    """The chunks of an array, worked on in this process: each_chunk for `fit`, without Ray."""

    def __init__(self, losses_NT: np.ndarray, chunk_rows: int) -> None:
        super().__init__()
        firsts = range(0, len(losses_NT), chunk_rows)
        self.chunks: list[Chunk] = [
            (first, min(first + chunk_rows, len(losses_NT)), []) for first in firsts
        ]
        self._loaded = {first: losses_NT[first:end] for first, end, _ in self.chunks}

    def each_chunk(self, method: str, *args) -> list:
        return [getattr(self, method)(chunk, *args) for chunk in self.chunks]


def farthest_of(found, count: int) -> list:
    """Return the `count` farthest of (squared distance, row, ...). Ties go to the lowest row."""
    return sorted(found, key=lambda item: (-item[0], item[1]))[:count]


def _tiles_of(losses_NT: np.ndarray) -> Iterator[slice]:
    return (slice(i, i + _TILE_ROWS) for i in range(0, len(losses_NT), _TILE_ROWS))
