"""The nearest center of each trajectory, on one thread.

N examples, n of a chunk, m of a tile, T checkpoints, K clusters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import ThreadpoolController

_SCORES = 2**17  # distances computed at a time, few enough for the cache
_ROWS = 2**14  # rows converted to float64 at a time


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
    for first in range(0, len(losses_NT), _ROWS):
        some = slice(first, first + _ROWS)
        x1_nT = with_ones(losses_NT[some], offset_T)
        cluster_id[some], _ = nearest(x1_nT, centers_KT)
        # From the difference, not from the product: exact even if the distance is tiny.
        from_nT = x1_nT[:, :-1] - centers_KT[cluster_id[some]]
        squared[some] = np.einsum("nt,nt->n", from_nT, from_nT)
    bad = np.flatnonzero(~np.isfinite(squared))
    if bad.size:
        raise ValueError(not_finite(bad.size, len(losses_NT), bad[0]))
    return cluster_id, squared


def with_ones(losses_nT: np.ndarray, offset_T: np.ndarray) -> np.ndarray:
    """Return the rows minus the offset in float64, with a last column of ones [n, T + 1]."""
    x1_nT = np.ones((len(losses_nT), len(offset_T) + 1))
    np.subtract(losses_nT, offset_T, out=x1_nT[:, :-1])
    return x1_nT


def nearest(x1_nT: np.ndarray, centers_KT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest center of each row of `with_ones`, int32 [n], and its score [n].

    The score of a row is its squared distance minus its square. Ties go to the lowest center.
    """
    # [x, 1] times this is |c|^2 - 2xc.
    squares_K = (centers_KT**2).sum(axis=1)
    product_TK = np.ascontiguousarray(np.vstack([-2.0 * centers_KT.T, squares_K]))
    cluster_id, score_n = np.empty(len(x1_nT), np.int32), np.empty(len(x1_nT))
    rows = max(64, min(2048, 2 ** int(np.log2(_SCORES / len(centers_KT)))))
    score_mK = np.empty((rows, len(centers_KT)))
    with one_thread():
        for first in range(0, len(x1_nT), rows):
            tile = slice(first, first + rows)
            found_mK = score_mK[: len(x1_nT[tile])]
            np.matmul(x1_nT[tile], product_TK, out=found_mK)
            cluster_id[tile] = found_mK.argmin(axis=1)
            score_n[tile] = found_mK[np.arange(len(found_mK)), cluster_id[tile]]
    return cluster_id, score_n


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
