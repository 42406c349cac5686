"""Trajectories in actors: the rows in chunks, and the passes over a chunk that k-means is made of.

Shape suffixes: N examples, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from threadpoolctl import ThreadpoolController

_TILE_ROWS = 4096  # rows converted to float64 at a time
_SCORES = 2**17  # distances taken at a time: they fit in cache


def assign(losses_NT: np.ndarray, centers_KT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest center of every trajectory: (cluster_id int32 [N], squared distance float64 [N]).

    Computes in float64 whatever the dtype of the losses, in small tiles, on one thread. Ties go
    to the lowest id. Raises ValueError if T differs or a row holds NaN or inf.
    """
    if losses_NT.ndim != 2 or losses_NT.shape[1] != centers_KT.shape[1]:
        raise ValueError(
            f"losses have shape {losses_NT.shape}, wanted [N, T] with T={centers_KT.shape[1]}"
        )
    # Any common offset keeps the distances; this one keeps |c|^2 - 2xc from cancelling.
    offset_T = centers_KT.mean(axis=0)
    centers_KT = centers_KT - offset_T
    cluster_id = np.empty(len(losses_NT), dtype=np.int32)
    squared = np.empty(len(losses_NT))
    first = 0
    with _one_thread():
        for x_NT, found, _ in _nearest(
            _with_ones(losses_NT, offset_T, len(centers_KT)), centers_KT
        ):
            tile = slice(first, first + len(found))
            cluster_id[tile] = found
            # Taken directly, not from the product: exact even where the distance is tiny.
            from_NT = x_NT - centers_KT[found]
            squared[tile] = np.einsum("nt,nt->n", from_NT, from_NT)
            first = tile.stop
    bad = np.flatnonzero(~np.isfinite(squared))
    if bad.size:
        raise ValueError(not_finite(bad.size, len(losses_NT), bad[0]))
    return cluster_id, squared


class Sample(NamedTuple):
    """Which rows are drawn: about `rows` of `of_rows`, whose inertia about their mean is given."""

    rows: int
    of_rows: int
    inertia: float
    seed: int


def _with_ones(losses_NT: np.ndarray, offset_T: np.ndarray, K: int) -> Iterator[np.ndarray]:
    """Tiles [n, T + 1] of the rows less an offset, float64, with a last column of ones. The tiles
    share memory."""
    rows = _tile_rows(K)
    x1_NT = np.ones((rows, losses_NT.shape[1] + 1))
    for first in range(0, len(losses_NT), rows):
        tile = losses_NT[first : first + rows]
        np.subtract(tile, offset_T, out=x1_NT[: len(tile), :-1])
        yield x1_NT[: len(tile)]


def _nearest(tiles, centers_KT: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """For each tile of `_with_ones`: its rows, their nearest centers, ties to the lowest, and the
    squared distance to it less the row's square."""
    # [x, 1] times this is |c|^2 - 2xc.
    squares_K = (centers_KT**2).sum(axis=1)
    product_TK = np.ascontiguousarray(np.vstack([-2.0 * centers_KT.T, squares_K]))
    score_NK = np.empty((_tile_rows(len(centers_KT)), len(centers_KT)))
    for x1_NT in tiles:
        np.matmul(x1_NT, product_TK, out=score_NK[: len(x1_NT)])
        nearest = score_NK[: len(x1_NT)].argmin(axis=1)
        yield x1_NT[:, :-1], nearest, score_NK[np.arange(len(x1_NT)), nearest]


def _tile_rows(K: int) -> int:
    return max(64, min(2048, 2 ** int(np.log2(_SCORES / K))))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Actors have a CPU each; and no result depends on how many threads there are."""
    with thread_pools().limit(limits=1), np.errstate(invalid="ignore"):
        yield


@ray.remote(num_cpus=1)
class ChunkActor:
    """Works on chunks, each (first row, end row, [(object ref, start, stop), ...]).

    The result of `run` depends on nothing but its arguments: any actor gives the same for a chunk.
    Below `run` one method per pass over a chunk; rows leave them as float64 less `mean_T`, and
    `centers_KT` are less `mean_T` too, against cancellation.
    """

    def __init__(self):
        self._loaded = {}  # by first row: every call to one actor is about one set of rows
        self._sampled = {}  # by first row and size of the whole sample, of one size at a time

    def run(self, chunks, method, *args) -> list:
        for first_row in self._loaded.keys() - {chunk[0] for chunk in chunks}:
            del self._loaded[first_row]  # another actor's by now
            self._sampled = {k: v for k, v in self._sampled.items() if k[0] != first_row}
        return [getattr(self, method)(chunk, *args) for chunk in chunks]

    def _rows(self, chunk) -> np.ndarray:
        first_row, _, slices = chunk
        if first_row not in self._loaded:
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
                # A view into a part of a block would pin all of it in the store of every node.
                self._loaded[first_row] = losses_NT if whole else losses_NT.copy()
        return self._loaded[first_row]

    def _tiles(self, chunk, mean_T) -> Iterator[np.ndarray]:
        losses_NT = self._rows(chunk)
        for tile in _tiles_of(losses_NT):
            yield losses_NT[tile].astype(np.float64, order="C") - mean_T

    def sample(self, chunk, mean_T, sample):
        """Rows drawn from the chunk [N, T], and weights [N] that make up for those left out.

        A row is drawn by its share in `sample.rows`, of which it gets one half for being there and
        one for its squared distance from the mean (Bachem, Lucic, Krause 2018, lightweight
        coresets): far rows, which decide about k-means, are not missed.
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
        """What `_nearest` yields for rows less mean_T, and their weights (None: one each)."""
        if sample is None:
            tiles = _with_ones(self._rows(chunk), mean_T, len(centers_KT))
            for members in _nearest(tiles, centers_KT):
                yield *members, None
        else:
            _, weight_N = self.sample(chunk, mean_T, sample)
            x1_NT, _ = self._sampled[chunk[0], sample.rows]
            rows = _tile_rows(len(centers_KT))
            tiles = (x1_NT[first : first + rows] for first in range(0, len(x1_NT), rows))
            first = 0
            for members in _nearest(tiles, centers_KT):
                count = len(members[0])
                yield *members, weight_N[first : first + count]
                first += count

    def inspect(self, chunk):
        """(losses per row, rows with NaN or inf, the first of them, sum of the rows [T])"""
        losses_NT = self._rows(chunk)
        bad = np.flatnonzero(~np.isfinite(losses_NT).all(axis=1))
        if bad.size:
            return losses_NT.shape[1], bad.size, chunk[0] + int(bad[0]), None
        sum_T = sum(tile_NT.sum(axis=0) for tile_NT in self._tiles(chunk, 0.0))
        return losses_NT.shape[1], 0, None, sum_T

    def distinct(self, chunk, limit):
        """Up to `limit` distinct rows, as bytes."""
        seen: set[bytes] = set()
        for tile_NT in self._tiles(chunk, 0.0):
            seen.update(map(bytes, tile_NT + 0.0))  # -0.0 equals 0.0 but has other bytes
            if len(seen) >= limit:
                break
        return list(seen)[:limit]

    def squared_deviations(self, chunk, mean_T):
        return sum((tile_NT**2).sum(axis=0) for tile_NT in self._tiles(chunk, mean_T))

    def partials(self, chunk, mean_T, centers_KT, sample):
        """(sum of the members of each cluster [K, T], their weights [K], inertia less that of one
        center at the mean)"""
        K, T = centers_KT.shape
        sum_KT, weight_K, gain = np.zeros((K, T)), np.zeros(K), 0.0
        with _one_thread():
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
        """The rows farthest from their centers: (distance^2, a number in row order, cluster,
        row [T], weight)"""
        found, row = [], chunk[0]
        with _one_thread():
            for x_NT, cluster_id, _, weight in self._members(chunk, mean_T, centers_KT, sample):
                squared = ((x_NT - centers_KT[cluster_id]) ** 2).sum(axis=1)
                top = np.argsort(-squared, kind="stable")[:count]
                weight = np.ones(len(x_NT)) if weight is None else weight
                found += [
                    (squared[n], row + n, cluster_id[n], x_NT[n].copy(), weight[n]) for n in top
                ]
                row += len(x_NT)
        return farthest_of(found, count)


def chunks_of(X, chunk_rows: int) -> list:
    """Cut X into [(first row, end row, [(object ref, start, stop), ...]), ...]."""
    if not isinstance(X, ray.data.Dataset):
        losses_NT = as_float_array(X)
        if not len(losses_NT):
            raise ValueError("X has no rows, wanted [N, T] with N >= n_clusters")
        return [
            (first, first + len(part), [(ray.put(part), 0, len(part))])
            for first in range(0, len(losses_NT), chunk_rows)
            for part in [losses_NT[first : first + chunk_rows]]
        ]
    check_column(X)
    selected = X if _as_wanted(X) else X.select_columns(["losses"])
    options = selected.context.execution_options  # may be shared with X: put it back
    preserve_order, options.preserve_order = options.preserve_order, True
    try:
        bundles = list(selected.materialize().iter_internal_ref_bundles())
    finally:
        options.preserve_order = preserve_order
    chunks, slices, first, filled = [], [], 0, 0
    for entry in (entry for bundle in bundles for entry in bundle.blocks):
        start, num_rows = 0, entry.metadata.num_rows
        while start < num_rows:
            stop = min(num_rows, start + chunk_rows - filled)
            slices.append((entry.ref, start, stop))
            filled += stop - start
            start = stop
            if filled == chunk_rows:
                chunks.append((first, first + filled, slices))
                slices, first, filled = [], first + filled, 0
    if slices:
        chunks.append((first, first + filled, slices))
    if not chunks:
        raise ValueError("the Dataset has no rows")
    return chunks


def _as_wanted(X: ray.data.Dataset) -> bool:
    """Whether its blocks are there, hold losses alone, and are no larger than Ray makes them: then
    a copy of them would be one more in the object store."""
    if not isinstance(X, ray.data.dataset.MaterializedDataset) or X.columns() != ["losses"]:
        return False
    bundles = X.iter_internal_ref_bundles()
    sizes = [entry.metadata.size_bytes for bundle in bundles for entry in bundle.blocks]
    most = X.context.target_max_block_size
    return most is not None and all(size is not None and size <= most for size in sizes)


def farthest_of(found, count: int) -> list:
    """The `count` farthest of (distance^2, row, ...), ties by lowest row."""
    return sorted(found, key=lambda item: (-item[0], item[1]))[:count]


def decode(pieces: list[pa.Array], first_row: int = 0) -> np.ndarray:
    """Pieces of a list or Ray tensor column as one float array [N, T], without a copy if it can."""
    flats, lengths = [], []
    for piece in pieces:
        column_type = piece.type
        if isinstance(column_type, pa.BaseExtensionType):
            piece = piece.storage
        if pa.types.is_struct(piece.type):  # Ray's tensors of unequal shapes
            piece = piece.field("data")
        if (
            not hasattr(piece.type, "value_field")
            or len(getattr(column_type, "shape", (None,))) != 1
        ):
            raise ValueError(f"column 'losses' must hold lists of floats, got {column_type}")
        if piece.null_count:
            raise ValueError(f"column 'losses' has {piece.null_count} rows that are null")
        lengths.append(pc.list_value_length(piece).to_numpy(zero_copy_only=False))
        flats.append(piece.flatten().to_numpy(zero_copy_only=False))
    length_N = np.concatenate(lengths)
    other = np.flatnonzero(length_N != length_N[0])
    if other.size:
        raise ValueError(
            f"rows of unequal length: row {first_row} has {length_N[0]} losses, "
            f"row {first_row + other[0]} has {length_N[other[0]]}"
        )
    flat = flats[0] if len(flats) == 1 else np.concatenate(flats)
    return as_float_array(flat.reshape(len(length_N), length_N[0]))


def as_float_array(X) -> np.ndarray:
    losses_NT = np.asarray(X)
    if losses_NT.dtype.kind != "f":
        losses_NT = losses_NT.astype(np.float64)
    if losses_NT.ndim != 2 or not losses_NT.shape[1]:
        raise ValueError(f"X has shape {losses_NT.shape}, wanted [N, T] with T >= 1")
    return losses_NT


def check_column(dataset: ray.data.Dataset) -> None:
    columns = dataset.columns()
    if columns is None:
        raise ValueError("the Dataset has no rows")
    if "losses" not in columns:
        raise ValueError(f"the Dataset has no column 'losses', it has {columns}")


def not_finite(bad_rows: int, num_rows: int, first_row: int) -> str:
    return f"{bad_rows} of {num_rows} rows hold NaN or inf, the first is row {first_row}"


def _tiles_of(losses_NT: np.ndarray) -> Iterator[slice]:
    return (slice(i, i + _TILE_ROWS) for i in range(0, len(losses_NT), _TILE_ROWS))


@functools.cache
def thread_pools() -> ThreadpoolController:
    """Finding the thread pools takes longer than a tile, setting their size does not."""
    return ThreadpoolController()
