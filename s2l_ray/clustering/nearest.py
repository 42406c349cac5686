"""The nearest center of each trajectory, in tiles, on one thread."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import ThreadpoolController

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
    with one_thread():
        for x_NT, found, _ in nearest(with_ones(losses_NT, offset_T, len(centers_KT)), centers_KT):
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


def with_ones(losses_NT: np.ndarray, offset_T: np.ndarray, K: int) -> Iterator[np.ndarray]:
    """Tiles [n, T + 1] of the rows less an offset, float64, with a last column of ones. The tiles
    share memory."""
    rows = tile_rows(K)
    x1_NT = np.ones((rows, losses_NT.shape[1] + 1))
    for first in range(0, len(losses_NT), rows):
        tile = losses_NT[first : first + rows]
        np.subtract(tile, offset_T, out=x1_NT[: len(tile), :-1])
        yield x1_NT[: len(tile)]


def nearest(tiles, centers_KT: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """For each tile of `with_ones`: its rows, their nearest centers, ties to the lowest, and the
    squared distance to it less the row's square."""
    # [x, 1] times this is |c|^2 - 2xc.
    squares_K = (centers_KT**2).sum(axis=1)
    product_TK = np.ascontiguousarray(np.vstack([-2.0 * centers_KT.T, squares_K]))
    score_NK = np.empty((tile_rows(len(centers_KT)), len(centers_KT)))
    for x1_NT in tiles:
        np.matmul(x1_NT, product_TK, out=score_NK[: len(x1_NT)])
        nearest = score_NK[: len(x1_NT)].argmin(axis=1)
        yield x1_NT[:, :-1], nearest, score_NK[np.arange(len(x1_NT)), nearest]


def tile_rows(K: int) -> int:
    return max(64, min(2048, 2 ** int(np.log2(_SCORES / K))))


@contextmanager
def one_thread() -> Iterator[None]:
    """Actors have a CPU each; and no result depends on how many threads there are."""
    with thread_pools().limit(limits=1), np.errstate(invalid="ignore"):
        yield


def not_finite(bad_rows: int, num_rows: int, first_row: int) -> str:
    return f"{bad_rows} of {num_rows} rows hold NaN or inf, the first is row {first_row}"


@functools.cache
def thread_pools() -> ThreadpoolController:
    """Finding the thread pools takes longer than a tile, setting their size does not."""
    return ThreadpoolController()
