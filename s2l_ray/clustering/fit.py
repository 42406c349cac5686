"""k-means over chunks, from the first pass to the last; without Ray.

N examples, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from sklearn.utils import check_random_state

from s2l_ray.clustering.lloyd import (
    Chunks,
    check_distinct,
    check_rows,
    lloyd,
    plus_plus_centers,
    random_centers,
    samples_of,
)
from s2l_ray.clustering.official import ITERATIONS, official_centers, sampled_rows

Init = Literal["k-means++", "random", "official"]


def fit(
    chunks: Chunks,
    num_rows: int,
    n_clusters: int,
    *,
    max_iter: int,
    tol: float,
    random_state: Any,
    init: Init | np.ndarray = "k-means++",
    state: tuple[int, int, float, np.ndarray] | None = None,
    keep: Callable[[tuple[int, int, float, np.ndarray]], None] | None = None,
) -> tuple[np.ndarray, float, int]:
    """Return the centers [K, T] in the unit of the rows, the inertia, and the iterations over all
    rows. See KMeans.fit.

    init: as in KMeans; an array holds the initial centers [K, T].
    """
    mean_T = check_rows(chunks, num_rows)
    init_KT = None if isinstance(init, str) else _checked(init, n_clusters, len(mean_T))
    check_distinct(chunks, num_rows, n_clusters)
    random_state = check_random_state(random_state)
    if isinstance(init, str) and init == "official":
        places = sampled_rows(num_rows, n_clusters, random_state)
        rows_nT = np.concatenate(chunks.each_chunk("take", places))
        centers_KT = official_centers(rows_nT, n_clusters, random_state)
        return centers_KT, sum(chunks.each_chunk("inertia", 0.0, centers_KT)), ITERATIONS
    variance_T: Any = sum(chunks.each_chunk("squared_deviations", mean_T)) / num_rows
    tolerance = tol * float(variance_T.mean())
    inertia = float(variance_T.sum()) * num_rows
    samples = samples_of(inertia, num_rows, n_clusters, random_state)
    phases = samples[1:] if init_KT is None else []
    begin, done, before = 0, 0, np.inf
    if state is not None:
        begin, done, before, centers_KT = state
    elif init_KT is not None:
        centers_KT = init_KT - mean_T
    else:
        initial = random_centers if init == "random" else plus_plus_centers
        centers_KT = initial(chunks, mean_T, samples[0], n_clusters, random_state)
    n_iter = 0
    for phase, sample in list(enumerate([*phases, None]))[begin:]:
        iterations = range(done + 1, max_iter + 1)
        least = 0.0  # only scikit-learn's rule
        if phases:  # stop sooner the more rows there are
            least = tol * (sample.rows / num_rows if sample else 1.0)
        centers_KT, n_iter = lloyd(
            chunks, mean_T, centers_KT, sample, iterations, tolerance, inertia=inertia,
            least=least, before=before, keep=keep and partial(_keep, keep, phase),
        )  # fmt: skip
        done, before = 0, np.inf
    return centers_KT + mean_T, sum(chunks.each_chunk("inertia", mean_T, centers_KT)), n_iter


def _keep(keep: Callable[[Any], None], phase: int, *state: Any) -> None:
    keep((phase, *state))


def _checked(init: np.ndarray, n_clusters: int, num_losses: int) -> np.ndarray:
    init_KT = np.asarray(init, dtype=np.float64)
    expected = (n_clusters, num_losses)
    if init_KT.shape != expected:
        raise ValueError(f"init has shape {init_KT.shape}, expected [K, T] = {expected}")
    if not np.isfinite(init_KT).all():
        raise ValueError("init holds NaN or inf, expected finite centers")
    return init_KT
