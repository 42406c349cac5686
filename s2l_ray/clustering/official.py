"""k-means as the official S2L code runs it: on few rows, from random ones, for 20 iterations.

It calls faiss.Kmeans(T, K, niter=20). faiss (1.15, Clustering.cpp) draws at most 256 rows per
cluster, starts from K of them at random, iterates without a test of convergence, and gives a
cluster that lost its members a part of another. The draws here are NumPy's, so the centers agree
with faiss's in distribution, and exactly from the same initial centers.

N examples, n of the sample, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.clustering.nearest import nearest, with_ones

ROWS_PER_CLUSTER = 256  # faiss's max_points_per_centroid
ITERATIONS = 20
_APART = 1 / 1024  # how far the halves of a divided cluster are moved apart


def sampled_rows(num_rows: int, n_clusters: int, random_state: Any) -> np.ndarray:
    """Draw the rows to cluster, without replacement: ascending numbers int64 [n]."""
    count = ROWS_PER_CLUSTER * n_clusters
    if num_rows <= count:
        return np.arange(num_rows)
    draw = np.random.default_rng(random_state.randint(2**31))
    return np.sort(draw.choice(num_rows, count, replace=False, shuffle=False))


def official_centers(
    rows_nT: np.ndarray, n_clusters: int, random_state: Any, init_KT: np.ndarray | None = None
) -> np.ndarray:
    """Cluster the sampled rows. Return centers, float64 [K, T].

    init_KT: initial centers instead of random rows.
    """
    rows_nT = np.asarray(rows_nT, np.float64)
    if init_KT is None:
        init_KT = rows_nT[random_state.permutation(len(rows_nT))[:n_clusters]]
    centers_KT = np.array(init_KT, np.float64)
    if len(rows_nT) == n_clusters:
        return centers_KT  # as faiss does: every row is a center
    x1_nT = with_ones(rows_nT, np.zeros(rows_nT.shape[1]))
    for _ in range(ITERATIONS):
        cluster_n, _ = nearest(x1_nT, centers_KT)
        size_K = np.bincount(cluster_n, minlength=n_clusters).astype(np.float64)
        sums = [np.bincount(cluster_n, column, n_clusters) for column in rows_nT.T]
        full_K = size_K > 0
        centers_KT[full_K] = (np.stack(sums, axis=1) / np.maximum(size_K, 1)[:, None])[full_K]
        _divide(centers_KT, size_K, len(rows_nT), random_state)
    return centers_KT


def _divide(centers_KT: np.ndarray, size_K: np.ndarray, num_rows: int, random_state: Any) -> None:
    """Give each cluster without members half of another one, which large clusters are more likely
    to be: its center, moved a little away from it."""
    away_T = np.where(np.arange(centers_KT.shape[1]) % 2 == 0, 1 + _APART, 1 - _APART)
    for empty in np.flatnonzero(size_K == 0):
        other = 0
        while random_state.random_sample() >= (size_K[other] - 1) / (num_rows - len(size_K)):
            other = (other + 1) % len(size_K)
        centers_KT[empty] = centers_KT[other] * away_T
        centers_KT[other] *= 2 - away_T
        size_K[empty] = size_K[other] // 2
        size_K[other] -= size_K[empty]
