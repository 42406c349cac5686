"""The order of examples in an array of losses: without a run directory, and without Ray.

N examples, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

Method = Literal["s2l", "prune_then_cluster", "loss_strata", "random"]


def rank(
    losses: Any,
    *,
    method: Method = "s2l",
    n_clusters: int = 100,
    random_state: int = 42,
    seed: int = 0,
    ids: Any = None,
    max_iter: int = 300,
    tol: float = 1e-4,
) -> np.ndarray:
    """Return the places of the examples in the order in which a selector takes them: int64 [N].

    The first B of the order are the subset of budget B, for every B.

    losses: an array [N, T], the loss of each example at each checkpoint. method: the selector; with
    prune_then_cluster, examples whose loss does not fall are left out. n_clusters, random_state,
    max_iter, tol: of k-means, as in `clusters` of a configuration; loss_strata has n_clusters
    strata. seed: of the draws, as selection.seed. ids: int64 [N], the examples' ids, which the
    draws depend on; by default their places. With the ids and trajectories of a run, the order is
    the run's own (loss_strata: up to 50,000 examples, from which a run takes its quantiles).

    ValueError for NaN or inf, or for fewer distinct rows than clusters.
    """
    from s2l_ray.selection.cut import cut

    if method not in get_args(Method):
        raise ValueError(f"method: found {method!r}, expected one of {', '.join(get_args(Method))}")
    losses_NT = _checked(losses)
    ids_N = _ids(ids, len(losses_NT))
    # k-means adds up rows in the order of their ids, as in a run.
    place_N = np.argsort(ids_N, kind="stable")
    if method == "prune_then_cluster":
        place_N = place_N[losses_NT[place_N, -1] < losses_NT[place_N, 0]]
    group_N = _groups(losses_NT[place_N], method, n_clusters, random_state, max_iter, tol)
    sizes = np.bincount(group_N)
    chosen = cut(ids_N[place_N], group_N, np.zeros(len(place_N)), sizes, seed)
    return place_N[np.searchsorted(ids_N[place_N], chosen.example_id)]


def _checked(losses: Any) -> np.ndarray:
    losses_NT = np.asarray(losses)
    if losses_NT.ndim != 2 or not losses_NT.size:
        raise ValueError(f"losses: found shape {losses_NT.shape}, expected [N, T]")
    if losses_NT.dtype.kind != "f":
        losses_NT = losses_NT.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(losses_NT).all(axis=1))
    if len(bad):
        raise ValueError(
            f"losses: {len(bad):,} of {len(losses_NT):,} rows have NaN or inf, the first is row "
            f"{bad[0]}; leave them out"
        )
    return losses_NT


def _ids(ids: Any, num_rows: int) -> np.ndarray:
    if ids is None:
        return np.arange(num_rows)
    ids_N = np.asarray(ids)
    if ids_N.shape != (num_rows,) or ids_N.dtype.kind not in "iu":
        raise ValueError(
            f"ids: found shape {ids_N.shape} of {ids_N.dtype}, expected integers [{num_rows}]"
        )
    if len(np.unique(ids_N)) < num_rows:
        raise ValueError("ids: some are equal, expected one per example")
    return ids_N


def _groups(
    losses_NT: np.ndarray,
    method: Method,
    n_clusters: int,
    random_state: int,
    max_iter: int,
    tol: float,
) -> np.ndarray:
    """Return the cluster or stratum of each example, int32 [N]."""
    from s2l_ray.clustering.chunks import CHUNK_ROWS
    from s2l_ray.clustering.fit import fit
    from s2l_ray.clustering.held import HeldChunks
    from s2l_ray.clustering.nearest import assign

    if method == "random":
        return np.zeros(len(losses_NT), np.int32)
    if n_clusters > len(losses_NT):
        raise ValueError(f"n_clusters: {n_clusters:,}, but there are {len(losses_NT):,} examples")
    if method == "loss_strata":
        score_N = losses_NT.mean(axis=1, dtype=np.float64)
        return stratum_of(score_N, np.sort(score_N), n_clusters)
    if method == "prune_then_cluster":
        losses_NT = losses_NT[:, :-1] - losses_NT[:, 1:]
    centers_KT, *_ = fit(
        HeldChunks(losses_NT, CHUNK_ROWS),
        len(losses_NT),
        n_clusters,
        max_iter=max_iter,
        tol=tol,
        random_state=random_state,
    )
    return assign(losses_NT, centers_KT)[0]


def place_of(score_N: np.ndarray, sorted_N: np.ndarray) -> np.ndarray:
    """Return twice the number of a sorted sample that come before: exact, in the middle of ties."""
    left, right = (np.searchsorted(sorted_N, score_N, side) for side in ("left", "right"))
    return left + right


def stratum_of(score_N: np.ndarray, sorted_N: np.ndarray, count: int) -> np.ndarray:
    """Return which of `count` quantile bins of a sorted sample each score is in, int32 [N]."""
    place_N = place_of(score_N, sorted_N) * count // (2 * len(sorted_N))
    return np.minimum(place_N, count - 1).astype(np.int32)
