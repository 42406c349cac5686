"""The nearest center of each trajectory, in tiles, on one thread.

N examples, n of a tile, T checkpoints, K clusters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import ThreadpoolController

_SCORES = 2**17  # distances computed at a time, few enough for the cache


def assign(losses_NT: np.ndarray, centers_KT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest center of every trajectory and the squared distance to it.

    cluster_id int32 [N], squared distance float64 [N]. Computes in float64 for any dtype. Ties go
    to the lowest id. ValueError if T differs or a row holds NaN or inf.
    """
    if losses_NT.ndim != 2 or losses_NT.shape[1] != centers_KT.shape[1]:
        raise ValueError(
            f"losses have shape {losses_NT.shape}, expected [N, T] with T={centers_KT.shape[1]}"
        )
    # A common offset does not change distances. This one keeps |c|^2 - 2xc from cancelling.
    offset_T = centers_KT.mean(axis=0)
    centers_KT = centers_KT - offset_T
    cluster_id = np.empty(len(losses_NT), dtype=np.int32)
    squared = np.empty(len(losses_NT))
    first = 0
    with one_thread():
        for x_nT, found, _ in nearest(with_ones(losses_NT, offset_T, len(centers_KT)), centers_KT):
            tile = slice(first, first + len(found))
            cluster_id[tile] = found
            # From the difference, not from the product: exact even if the distance is tiny.
            from_nT = x_nT - centers_KT[found]
            squared[tile] = np.einsum("nt,nt->n", from_nT, from_nT)
            first = tile.stop
    bad = np.flatnonzero(~np.isfinite(squared))
    if bad.size:
        raise ValueError(not_finite(bad.size, len(losses_NT), bad[0]))
    return cluster_id, squared


def with_ones(losses_NT: np.ndarray, offset_T: np.ndarray, K: int) -> Iterator[np.ndarray]:
    """Yield tiles [n, T + 1] of the rows minus the offset, in float64, with a last column of ones.

    All tiles share one buffer.
    """
    rows = tile_rows(K)
    x1_nT = np.ones((rows, losses_NT.shape[1] + 1))
    for first in range(0, len(losses_NT), rows):
        tile = losses_NT[first : first + rows]
        np.subtract(tile, offset_T, out=x1_nT[: len(tile), :-1])
        yield x1_nT[: len(tile)]


def nearest(tiles, centers_KT: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield, for each tile of `with_ones`, its rows, their nearest centers, and the scores.

    The score of a row is its squared distance minus its square. Ties go to the lowest center.
    """
    # [x, 1] times this is |c|^2 - 2xc.
    squares_K = (centers_KT**2).sum(axis=1)
    product_TK = np.ascontiguousarray(np.vstack([-2.0 * centers_KT.T, squares_K]))
    score_nK = np.empty((tile_rows(len(centers_KT)), len(centers_KT)))
    for x1_nT in tiles:
        np.matmul(x1_nT, product_TK, out=score_nK[: len(x1_nT)])
        nearest = score_nK[: len(x1_nT)].argmin(axis=1)
        yield x1_nT[:, :-1], nearest, score_nK[np.arange(len(x1_nT)), nearest]


def tile_rows(K: int) -> int:
    return max(64, min(2048, 2 ** int(np.log2(_SCORES / K))))


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one BLAS thread: an actor has one CPU, and results must not depend on the number."""
    with blas_threads().limit(limits=1), np.errstate(invalid="ignore"):
        yield


def not_finite(bad_rows: int, num_rows: int, first_row: int) -> str:
    return f"{bad_rows} of {num_rows} rows hold NaN or inf, the first is row {first_row}"


@functools.cache
def blas_threads() -> ThreadpoolController:
    """Return the controller of BLAS and OpenMP threads. Finding the libraries is slow, so once."""
    return ThreadpoolController()
