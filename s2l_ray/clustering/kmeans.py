"""k-means over a pool of Ray actors, with the grammar of scikit-learn.

The rows are cut, in row order, into chunks of `chunk_rows`. Actors hold the chunks and return
one partial result per chunk; the driver adds them up strictly in chunk order. So the result is
the same bit for bit for any number of actors and any split of the data into blocks (on one type
of CPU), and the driver never holds the data.

Shape suffixes: N examples, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

import logging
import time
import warnings
from functools import partial
from itertools import chain
from numbers import Integral

import numpy as np
import pyarrow as pa
import ray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from s2l_ray.clustering.chunks import ChunkActor, Sample, farthest_of
from s2l_ray.clustering.nearest import assign, not_finite, thread_pools
from s2l_ray.clustering.rows import as_float_array, check_column, chunks_of, decode
from s2l_ray.execution.actors import Pool

logger = logging.getLogger(__name__)
_SEED_ROWS = 2**15  # that k-means begins with, on the driver; at least so many
_SEED_ROWS_PER_CLUSTER = 100
_SEEDINGS, _SEED_ITERATIONS = 4, 20  # short runs on these, of which the best is taken
_GROWTH = 4  # from one sample to the next
_LOG_SECONDS = 15.0


class KMeans(ClusterMixin, BaseEstimator):
    """Lloyd's k-means on trajectories that live in Ray actors.

    Parameters have scikit-learn's meanings; `init` is "k-means++" or an array [K, T].
    `num_actors` (one CPU each) defaults to one per CPU of the cluster, at most one per chunk. The
    first pass begins with those that have a CPU by then; others join as nodes come.
    `chunk_rows` is the unit of work and of summation: another value gives another rounding.

    Of many rows with k-means++, most iterations run on samples that grow (ChunkActor.sample says
    how they are drawn) and only the last ones on all rows; `max_iter` holds for each sample. Then
    `fit` also stops where an iteration over all rows lowers the inertia by less than the share
    `tol`.

    After `fit`: `cluster_centers_` float64 [K, T], in the unit of the losses; `inertia_`, the sum
    of squared distances to the nearest of these centers; `n_iter_`, iterations over all rows;
    `n_features_in_` (T).
    """

    def __init__(
        self,
        n_clusters=100,
        *,
        init="k-means++",
        max_iter=300,
        tol=1e-4,
        random_state=None,
        num_actors=None,
        chunk_rows=65536,
    ):
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.num_actors = num_actors
        self.chunk_rows = chunk_rows

    def fit(self, X, y=None, *, state=None, keep=None) -> KMeans:
        """Learn the centers of X: an array [N, T], or a Dataset with a list column `losses`.

        After every iteration but the last `keep(state)` is called, if given: (phase, iteration,
        what the inertia was less than about one center, centers less their data's mean, float64
        [K, T]). A fit of the same X that gets such a `state` goes on after that iteration and ends
        with the same bits.

        Raises ValueError if a parameter or the data cannot be used: no rows, rows of unequal
        length, NaN or inf, or fewer distinct rows than clusters.
        """
        self._check_params()
        chunks = chunks_of(X, self.chunk_rows)
        num_rows = chunks[-1][1]
        if self.n_clusters > num_rows:
            raise ValueError(f"n_clusters={self.n_clusters} needs as many rows, got {num_rows}")
        with Pool(ChunkActor, chunks, self.num_actors) as pool:
            each_chunk = pool.each_chunk
            mean_T = _check_rows(each_chunk, num_rows)
            init_KT = self._check_init(len(mean_T))
            _check_distinct(each_chunk, num_rows, self.n_clusters)
            variance_T = sum(each_chunk("squared_deviations", mean_T)) / num_rows
            tolerance = self.tol * float(variance_T.mean())
            random_state = check_random_state(self.random_state)
            inertia = float(variance_T.sum()) * num_rows
            samples = _samples(inertia, num_rows, self.n_clusters, random_state)
            phases = samples[1:] if init_KT is None else []
            if state is not None:
                begin, done, before, centers_KT = state
            elif init_KT is not None:
                begin, done, before, centers_KT = 0, 0, np.inf, init_KT - mean_T
            else:
                begin, done, before = 0, 0, np.inf
                centers_KT = _seed(each_chunk, mean_T, samples[0], self.n_clusters, random_state)
            for phase, sample in list(enumerate([*phases, None]))[begin:]:
                iterations = range(done + 1, self.max_iter + 1)
                least = 0.0  # scikit-learn's rule alone
                if phases:  # the more rows, the sooner it is enough
                    least = self.tol * (sample.rows / num_rows if sample else 1.0)
                centers_KT, self.n_iter_ = _lloyd(
                    each_chunk, mean_T, centers_KT, sample, iterations, tolerance, inertia=inertia,
                    least=least, before=before, keep=keep and partial(_keep, keep, phase),
                )  # fmt: skip
                done, before = 0, np.inf
            self.inertia_ = sum(each_chunk("inertia", mean_T, centers_KT))
        self.cluster_centers_ = centers_KT + mean_T
        self.n_features_in_ = len(mean_T)
        return self

    def predict(self, X):
        """Nearest center of every row, ties to the lowest cluster id.

        An array [N, T] gives int32 labels [N]. A Dataset with a column `losses` gives a (lazy)
        Dataset with the columns `cluster_id` int32 and `distance` float32 (Euclidean, to the own
        center) added, or replaced. Raises ValueError as `fit` does, and if T is not that of
        `fit`; for the rows of a Dataset this happens when it is executed.
        """
        check_is_fitted(self)
        if not isinstance(X, ray.data.Dataset):
            return assign(as_float_array(X), self.cluster_centers_)[0]
        check_column(X)
        centers_KT = self.cluster_centers_

        def add_clusters(table: pa.Table) -> pa.Table:
            losses_NT = np.empty((0, centers_KT.shape[1]))
            if table.num_rows:
                losses_NT = decode(table["losses"].chunks)
            cluster_id, squared = assign(losses_NT, centers_KT)
            added = {"cluster_id": cluster_id, "distance": np.sqrt(squared).astype(np.float32)}
            table = table.drop_columns([name for name in added if name in table.column_names])
            for name, values in added.items():
                table = table.append_column(name, pa.array(values))
            return table

        return X.map_batches(add_clusters, batch_format="pyarrow")

    def fit_predict(self, X, y=None):
        """`fit(X).predict(X)`: the labels of the training rows are not kept in the estimator."""
        return self.fit(X).predict(X)

    def _check_params(self) -> None:
        for name in ("n_clusters", "max_iter", "chunk_rows", "num_actors"):
            value = getattr(self, name)
            if name == "num_actors" and value is None:
                continue
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        if not self.tol >= 0:
            raise ValueError(f"tol must be >= 0, got {self.tol!r}")
        if isinstance(self.init, str) and self.init != "k-means++":
            raise ValueError(f"init must be 'k-means++' or an array [K, T], got {self.init!r}")

    def _check_init(self, num_losses: int) -> np.ndarray | None:
        if isinstance(self.init, str):
            return None
        init_KT = np.asarray(self.init, dtype=np.float64)
        wanted = (self.n_clusters, num_losses)
        if init_KT.shape != wanted:
            raise ValueError(f"init has shape {init_KT.shape}, wanted [K, T] = {wanted}")
        if not np.isfinite(init_KT).all():
            raise ValueError("init holds NaN or inf, wanted finite centers")
        return init_KT


def _check_rows(each_chunk, num_rows: int) -> np.ndarray:
    """Mean row [T], or ValueError for rows that cannot be clustered."""
    lengths, bad_rows, first_bad, sums = zip(*each_chunk("inspect"), strict=True)
    if len(set(lengths)) > 1:
        raise ValueError(
            f"rows hold between {min(lengths)} and {max(lengths)} losses, wanted one T"
        )
    if sum(bad_rows):
        first = next(row for row in first_bad if row is not None)
        raise ValueError(not_finite(sum(bad_rows), num_rows, first))
    return sum(sums) / num_rows


def _check_distinct(each_chunk, num_rows: int, n_clusters: int) -> None:
    found = len(set().union(*each_chunk("distinct", n_clusters)))
    if found < n_clusters:
        raise ValueError(
            f"found {found} distinct rows among {num_rows}, "
            f"n_clusters={n_clusters} needs at least {n_clusters}"
        )


def _samples(inertia, num_rows, n_clusters, random_state) -> list[Sample]:
    """The samples that k-means looks at before it looks at all rows: the first to begin with, the
    others growing, or that one again. Of few rows there is one sample, and that is all of them."""
    rows = max(_SEED_ROWS, _SEED_ROWS_PER_CLUSTER * n_clusters)
    if num_rows <= rows:
        return [Sample(2 * num_rows, num_rows, inertia, 0)]
    seed, samples = int(random_state.randint(2**31)), list[Sample]()
    while not samples or 2 * rows <= num_rows:
        samples.append(Sample(rows, num_rows, inertia, seed))
        rows *= _GROWTH
    return samples if len(samples) > 1 else 2 * samples


def _seed(each_chunk, mean_T, sample, n_clusters, random_state) -> np.ndarray:
    """Centers (less mean_T) to begin with: the best of a few short runs of k-means on the sample,
    which of few rows is all of them.

    On loss trajectories, which have heavy tails, initialisation decides how good k-means ends.
    """
    rows, weights = zip(*each_chunk("sample", mean_T, sample), strict=True)
    sample_NT, weight_N = np.concatenate(rows), np.concatenate(weights)
    with thread_pools().limit(limits=1):
        short = SklearnKMeans(
            n_clusters, n_init=_SEEDINGS, max_iter=_SEED_ITERATIONS, random_state=random_state
        )
        return short.fit(sample_NT, sample_weight=weight_N).cluster_centers_


def _keep(keep, phase, *state) -> None:
    keep((phase, *state))


def _lloyd(
    each_chunk, mean_T, centers_KT, sample, iterations, tolerance, *, inertia, least, before, keep
) -> tuple[np.ndarray, int]:
    """(centers [K, T] less mean_T, iterations). Stops as scikit-learn does, at a squared shift of
    all centers of at most `tolerance`; or where an iteration lowered the inertia by less than
    `least` of itself. `inertia`: that of all rows about their mean; `before`: by how much less it
    was (so far below zero) an iteration before.
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
        # A cluster whose only member was moved away joins the largest one for now.
        gone = weight_K < 0.5  # no row weighs less than one
        new_KT = sum_KT / np.where(gone, 1.0, weight_K)[:, None]
        new_KT[gone] = new_KT[weight_K.argmax()]
        shift = float(((new_KT - centers_KT) ** 2).sum())
        centers_KT = new_KT
        if time.monotonic() - logged >= _LOG_SECONDS:
            logged = time.monotonic()
            logger.info(
                "k-means iteration %d%s: squared center shift %.3g (stops at %.3g)",
                iteration,
                "" if sample is None else f" on {sample.rows:,} rows",
                *(shift, tolerance),
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
                f"wanted at most {tolerance:.3g}",
                ConvergenceWarning,
                stacklevel=3,
            )
    return centers_KT, iteration


def _reduce(partials) -> tuple:
    """Add up tuples item by item, strictly in the order given."""
    return tuple(sum(items) for items in zip(*partials, strict=True))
