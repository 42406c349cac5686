"""Lloyd's algorithm on chunks: checks, samples, initial centers, iterations.

Sums over chunks are added up in a fixed tree, whoever computes them. N examples, T checkpoints
(losses per trajectory), K clusters.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from sklearn.cluster import kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning

from s2l_ray.clustering.chunks import Sample, farthest_of
from s2l_ray.clustering.nearest import blas_threads, not_finite
from s2l_ray.execution.tree import add

logger = logging.getLogger(__name__)

# Rows of the first sample, from which the driver computes initial centers: at least so many.
_SEED_ROWS = 2**15
_SEED_ROWS_PER_CLUSTER = 100
_SEED_TRIALS = 20  # candidates for each center; scikit-learn's default is 2 + log(K)
_GROWTH = 4  # from one sample to the next
_LOG_SECONDS = 15.0


class Chunks(Protocol):
    """Who makes passes over chunks: an ActorPool of ChunkActor, or HeldChunks."""

    chunks: Sequence[Any]

    def each_chunk(
        self, method: str, *args: Any, only: Iterable[int] | None = None
    ) -> list[Any]: ...

    def total(self, combine: Callable[[Any, Any], Any], method: str, *args: Any) -> Any: ...


def check_rows(chunks: Chunks, num_rows: int) -> np.ndarray:
    """Return the mean row [T]. ValueError if the rows cannot be clustered."""
    lengths, bad_rows, first_bad, sums = zip(*chunks.each_chunk("inspect"), strict=True)
    if len(set(lengths)) > 1:
        raise ValueError(
            f"rows hold between {min(lengths)} and {max(lengths)} losses, expected one T"
        )
    if sum(bad_rows):
        first = next(row for row in first_bad if row is not None)
        raise ValueError(not_finite(sum(bad_rows), num_rows, first))
    return sum(sums) / num_rows


def check_distinct(chunks: Chunks, num_rows: int, n_clusters: int) -> None:
    """ValueError if there are fewer distinct rows than clusters.

    Usually the first chunk has enough. Then 1, 2, 4, ... more are looked at.
    """
    found, first, count = set[bytes](), 0, 1
    while len(found) < n_clusters and first < len(chunks.chunks):
        stop = min(first + count, len(chunks.chunks))
        found.update(*chunks.each_chunk("distinct", n_clusters, only=range(first, stop)))
        first, count = stop, stop
    if len(found) < n_clusters:
        raise ValueError(
            f"found {len(found)} distinct rows among {num_rows}, "
            f"n_clusters={n_clusters} needs at least {n_clusters}"
        )


def samples_of(inertia, num_rows, n_clusters, random_state) -> list[Sample]:
    """Return the samples that k-means uses before it uses all rows.

    The first is for the initial centers, the others are for iterations and grow. If only one size
    fits, it serves both. If there are few rows, there is one sample, which holds all of them.
    """
    rows = max(_SEED_ROWS, _SEED_ROWS_PER_CLUSTER * n_clusters)
    if num_rows <= rows:
        return [Sample(2 * num_rows, num_rows, inertia, 0)]
    seed, samples = int(random_state.randint(2**31)), list[Sample]()
    while not samples or 2 * rows <= num_rows:
        samples.append(Sample(rows, num_rows, inertia, seed))
        rows *= _GROWTH
    return samples if len(samples) > 1 else 2 * samples


def random_centers(chunks: Chunks, mean_T, sample, n_clusters, random_state) -> np.ndarray:
    """Return initial centers minus mean_T: rows of the sample, each row of the data as likely."""
    rows_nT, weight_n = _sampled(chunks, mean_T, sample)
    chance_n = weight_n / weight_n.sum()
    return rows_nT[random_state.choice(len(rows_nT), n_clusters, replace=False, p=chance_n)]


def plus_plus_centers(chunks: Chunks, mean_T, sample, n_clusters, random_state) -> np.ndarray:
    """Return initial centers minus mean_T: those of k-means++ on the sample.

    Loss trajectories have heavy tails, so the final inertia depends on the initial centers. Many
    trials per center find as good ones as several short runs of k-means do, in a quarter of the
    time.
    """
    rows_nT, weight_n = _sampled(chunks, mean_T, sample)
    with blas_threads().limit(limits=1):
        centers_KT, _ = kmeans_plusplus(
            rows_nT,
            n_clusters,
            sample_weight=weight_n,
            random_state=random_state,
            n_local_trials=_SEED_TRIALS,
        )
    return centers_KT


def _sampled(chunks: Chunks, mean_T, sample) -> tuple[np.ndarray, np.ndarray]:
    rows, weights = zip(*chunks.each_chunk("sample", mean_T, sample), strict=True)
    return np.concatenate(rows), np.concatenate(weights)


def lloyd(
    chunks: Chunks,
    mean_T,
    centers_KT,
    sample,
    iterations,
    tolerance,
    *,
    inertia,
    least,
    before,
    keep,
) -> tuple[np.ndarray, int]:
    """Iterate from centers_KT. Return (centers [K, T], iterations); all centers minus mean_T.

    Stops as scikit-learn does, once the squared shift of all centers is at most `tolerance`. Stops
    also once an iteration lowers the inertia by less than the share `least`. Warns if neither
    happens within `iterations` over all rows.
    sample: None for all rows. inertia: of all rows, about their mean. before: the gain (see
    ChunkActor.partials) of the iteration before, inf if there is none. keep: called with
    (iteration, gain, centers) after every iteration but the last, or None.
    """
    logged = time.monotonic()
    for iteration in iterations:
        args = mean_T, centers_KT, sample
        sum1_KT, gain = chunks.total(add, "partials", *args)
        empty = np.flatnonzero(sum1_KT[:, -1] == 0)
        if empty.size:
            sum1_KT = sum1_KT.copy()  # what an actor returns is read-only
            farthest = partial(farthest_of, empty.size)
            found = chunks.total(farthest, "farthest", *args, empty.size)
            for k, (_, _, old, x1_T, weight) in zip(empty, found, strict=False):
                sum1_KT[old] -= weight * x1_T
                sum1_KT[k] = weight * x1_T
        # A cluster whose only member was moved away takes the largest cluster's center for now.
        weight_K = sum1_KT[:, -1]
        gone = weight_K < 0.5  # every row weighs at least 1
        new_KT = sum1_KT[:, :-1] / np.where(gone, 1.0, weight_K)[:, None]
        new_KT[gone] = new_KT[weight_K.argmax()]
        shift = float(((new_KT - centers_KT) ** 2).sum())
        centers_KT = new_KT
        if time.monotonic() - logged >= _LOG_SECONDS:
            logged = time.monotonic()
            rows = "" if sample is None else f" on {sample.rows:,} rows"
            logger.info(
                f"k-means iteration {iteration}{rows}: squared center shift {shift:.3g} "
                f"(stops at {tolerance:.3g})"
            )
        if shift <= tolerance or before - gain < least * (inertia + gain):
            break
        before = gain
        if keep is not None and iteration != iterations[-1]:
            keep(iteration, before, centers_KT)
    else:
        if sample is None:
            warnings.warn(
                f"k-means stopped at max_iter={iteration}: squared center shift {shift:.3g}, "
                f"expected at most {tolerance:.3g}",
                ConvergenceWarning,
                stacklevel=3,
            )
    return centers_KT, iteration
