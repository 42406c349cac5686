"""Lloyd's algorithm on chunks: checks, samples, initial centers, iterations.

`each_chunk(method, *args)` makes a pass over all chunks (ActorPool, ChunkActor) and returns the
results in chunk order. They are always added up in that order, so the sums do not depend on the
actors. N examples, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

import logging
import time
import warnings
from itertools import chain

import numpy as np
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.exceptions import ConvergenceWarning

from s2l_ray.clustering.chunks import Sample, farthest_of
from s2l_ray.clustering.nearest import blas_threads, not_finite

logger = logging.getLogger(__name__)

# Rows of the first sample, from which the driver computes initial centers: at least so many.
_SEED_ROWS = 2**15
_SEED_ROWS_PER_CLUSTER = 100
_SEED_RUNS, _SEED_ITERATIONS = 4, 20  # short runs on this sample; the best one is used
_GROWTH = 4  # from one sample to the next
_LOG_SECONDS = 15.0


def check_rows(each_chunk, num_rows: int) -> np.ndarray:
    """Return the mean row [T]. ValueError if the rows cannot be clustered."""
    lengths, bad_rows, first_bad, sums = zip(*each_chunk("inspect"), strict=True)
    if len(set(lengths)) > 1:
        raise ValueError(
            f"rows hold between {min(lengths)} and {max(lengths)} losses, expected one T"
        )
    if sum(bad_rows):
        first = next(row for row in first_bad if row is not None)
        raise ValueError(not_finite(sum(bad_rows), num_rows, first))
    return sum(sums) / num_rows


def check_distinct(each_chunk, num_rows: int, n_clusters: int) -> None:
    """ValueError if there are fewer distinct rows than clusters."""
    found = len(set().union(*each_chunk("distinct", n_clusters)))
    if found < n_clusters:
        raise ValueError(
            f"found {found} distinct rows among {num_rows}, "
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


def initial_centers(each_chunk, mean_T, sample, n_clusters, random_state) -> np.ndarray:
    """Return initial centers minus mean_T: the best of a few short runs of k-means on the sample.

    Loss trajectories have heavy tails, so the final inertia depends on the initial centers.
    """
    rows, weights = zip(*each_chunk("sample", mean_T, sample), strict=True)
    sample_NT, weight_N = np.concatenate(rows), np.concatenate(weights)
    with blas_threads().limit(limits=1):
        short = SklearnKMeans(
            n_clusters, n_init=_SEED_RUNS, max_iter=_SEED_ITERATIONS, random_state=random_state
        )
        return short.fit(sample_NT, sample_weight=weight_N).cluster_centers_


def lloyd(
    each_chunk, mean_T, centers_KT, sample, iterations, tolerance, *, inertia, least, before, keep
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
        sum_KT, weight_K, gain = _reduce(each_chunk("partials", mean_T, centers_KT, sample))
        empty = np.flatnonzero(weight_K == 0)
        if empty.size:
            found = chain.from_iterable(
                each_chunk("farthest", mean_T, centers_KT, sample, empty.size)
            )
            for k, (_, _, old, row_T, weight) in zip(
                empty, farthest_of(found, empty.size), strict=False
            ):
                sum_KT[old] -= weight * row_T
                weight_K[old] -= weight
                sum_KT[k], weight_K[k] = weight * row_T, weight
        # A cluster whose only member was moved away takes the largest cluster's center for now.
        gone = weight_K < 0.5  # every row weighs at least 1
        new_KT = sum_KT / np.where(gone, 1.0, weight_K)[:, None]
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


def _reduce(partials) -> tuple:
    """Add up tuples item by item, in the order given."""
    return tuple(sum(items) for items in zip(*partials, strict=True))
