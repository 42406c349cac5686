"""k-means over a pool of Ray actors, with scikit-learn's interface.

The rows are cut, in row order, into chunks of `chunk_rows`. Actors hold the chunks, and the partial
results of chunks are added up in a fixed tree. So the result is the same, bit for bit, for any
number of actors and any split of the data into blocks (on one type of CPU), and the driver never
holds the data. A small array needs no actors: threads of this process do the same.

N examples, T checkpoints (losses per trajectory), K clusters.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import ray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from s2l_ray.clustering.chunks import CHUNK_ROWS, ChunkActor
from s2l_ray.clustering.fit import Init, fit
from s2l_ray.clustering.held import HeldChunks
from s2l_ray.clustering.lloyd import Chunks
from s2l_ray.clustering.nearest import assign
from s2l_ray.clustering.rows import (
    HELD_BYTES,
    as_float_array,
    check_column,
    cut_into_chunks,
    decode,
)
from s2l_ray.execution.actors import ActorPool


class KMeans(ClusterMixin, BaseEstimator):
    """Lloyd's k-means on trajectories that are held by Ray actors.

    Parameters have scikit-learn's meanings. `init` is "k-means++", "random", an array [K, T], or
    "official": what the official S2L code does by faiss (official.py), where `max_iter` and `tol`
    have no effect.
    `num_actors`, of one CPU each, defaults to one per CPU of the cluster and is at most one per
    chunk. Actors that find no CPU at first join later, as nodes come. With the default, arrays of
    up to 64 MiB are clustered in this process; that starts no Ray.
    `chunk_rows` is the unit of work and of summation. Another value gives another rounding.

    With "k-means++" or "random" and many rows, most iterations run on growing samples
    (ChunkActor.sample) and only the last ones on all rows. `max_iter` then applies to each sample,
    and `fit` also stops once an iteration over all rows lowers the inertia by less than the share
    `tol`.

    After `fit`: `cluster_centers_` float64 [K, T], in the unit of the losses; `inertia_`, the sum
    of squared distances to the nearest center; `n_iter_`, iterations over all rows;
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
        chunk_rows=CHUNK_ROWS,
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

        After every iteration but the last, calls `keep(state)`, if given. The state is (phase,
        iteration, gain, centers float64 [K, T] minus the mean of the data); see lloyd.py. A fit of
        the same X with such a `state` continues after that iteration and ends with the same bits.

        ValueError if a parameter or the data cannot be used: no rows, rows of unequal length, NaN
        or inf, or fewer distinct rows than clusters.
        """
        self._check_params()
        with self._chunks(X) as chunks:
            num_rows = chunks.chunks[-1][1]
            if self.n_clusters > num_rows:
                raise ValueError(f"n_clusters={self.n_clusters} needs as many rows, got {num_rows}")
            found = fit(
                chunks,
                num_rows,
                self.n_clusters,
                init=self.init,
                max_iter=self.max_iter,
                tol=self.tol,
                random_state=self.random_state,
                state=state,
                keep=keep,
            )
        self.cluster_centers_, self.inertia_, self.n_iter_ = found
        self.n_features_in_ = self.cluster_centers_.shape[1]
        return self

    def predict(self, X):
        """Find the nearest center of every row. Ties go to the lowest cluster id.

        For an array [N, T], returns int32 labels [N]. For a Dataset with a column `losses`, returns
        a lazy Dataset with the columns `cluster_id` int32 and `distance` float32 (Euclidean, to the
        row's center) added or replaced. ValueError as in `fit`, and if T differs from that of
        `fit`; for the rows of a Dataset, it is raised when the Dataset is executed.
        """
        check_is_fitted(self)
        if not isinstance(X, ray.data.Dataset):
            return assign(as_float_array(X), self.cluster_centers_)[0]
        check_column(X)
        centers_KT = self.cluster_centers_

        def add_clusters(table: pa.Table) -> pa.Table:
            losses_NT = np.empty((0, centers_KT.shape[1]))
            if table.num_rows:
                losses_NT = np.concatenate(decode(table["losses"].chunks))
            cluster_id, squared = assign(losses_NT, centers_KT)
            added = {"cluster_id": cluster_id, "distance": np.sqrt(squared).astype(np.float32)}
            table = table.drop_columns([name for name in added if name in table.column_names])
            for name, values in added.items():
                table = table.append_column(name, pa.array(values))
            return table

        return X.map_batches(add_clusters, batch_format="pyarrow")

    def fit_predict(self, X, y=None):
        """Return `fit(X).predict(X)`. The estimator does not keep the labels of the rows."""
        return self.fit(X).predict(X)

    def _chunks(self, X: Any) -> AbstractContextManager[Chunks]:
        if self.num_actors is None and not isinstance(X, ray.data.Dataset):
            losses_NT = as_float_array(X)
            if losses_NT.nbytes <= HELD_BYTES:
                return nullcontext(HeldChunks(losses_NT, self.chunk_rows))
        chunks = cut_into_chunks(X, self.chunk_rows)
        return ActorPool(ray.remote(num_cpus=1)(ChunkActor), chunks, self.num_actors)

    def _check_params(self) -> None:
        for name in ("n_clusters", "max_iter", "chunk_rows", "num_actors"):
            value = getattr(self, name)
            if name == "num_actors" and value is None:
                continue
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        if not self.tol >= 0:
            raise ValueError(f"tol must be >= 0, got {self.tol!r}")
        if isinstance(self.init, str) and self.init not in get_args(Init):
            raise ValueError(
                f"init must be one of {', '.join(map(repr, get_args(Init)))}, or an array [K, T], "
                f"got {self.init!r}"
            )
