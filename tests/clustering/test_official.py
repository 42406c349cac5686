"""The official code's k-means against faiss itself."""

import faiss
import numpy as np
import pytest

from s2l_ray.clustering.kmeans import KMeans
from s2l_ray.clustering.nearest import assign
from s2l_ray.clustering.official import (
    ITERATIONS,
    ROWS_PER_CLUSTER,
    _divide,
    official_centers,
    sampled_rows,
)


def losses_like(num_rows, seed=0):
    """Heavy-tailed levels that fall over the checkpoints, as float32."""
    rng = np.random.default_rng(seed)
    level = rng.lognormal(0.0, 0.9, (num_rows, 1))
    decay = np.exp(-rng.gamma(2.0, 0.15, (num_rows, 1)) * np.arange(6))
    return (level * decay + 0.05 * rng.standard_t(3, (num_rows, 6))).astype(np.float32)


def sizes_of(X, centers_KT):
    return np.bincount(assign(X, np.asarray(centers_KT, np.float64))[0], minlength=len(centers_KT))


def of_faiss(X, n_clusters, seed, init=None):
    kmeans = faiss.Kmeans(X.shape[1], n_clusters, niter=ITERATIONS, seed=seed)
    kmeans.train(X, init_centroids=init)
    return kmeans.centroids


def test_from_the_same_centers_it_ends_where_faiss_ends():
    X = losses_like(3000)
    init = X[np.random.default_rng(1).choice(len(X), 20, replace=False)]
    ours = official_centers(X, 20, np.random.RandomState(0), init_KT=init)
    theirs = of_faiss(X, 20, 0, init)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)  # faiss computes in float32
    assert np.abs(sizes_of(X, ours) - sizes_of(X, theirs)).max() <= 3


def test_cluster_sizes_and_inertia_are_spread_as_those_of_faiss():
    X, ours, theirs = losses_like(20_000), [], []
    for seed in range(8):
        centers = KMeans(50, init="official", random_state=seed).fit(X).cluster_centers_
        peer = of_faiss(X, 50, seed + 1)
        for found, each in ((ours, centers), (theirs, peer)):
            sizes = np.sort(sizes_of(X, each))
            found.append([*np.quantile(sizes, (0.1, 0.5, 0.9, 1)), assign(X, each)[1].sum()])
    mean, peer = np.mean(ours, axis=0), np.mean(theirs, axis=0)
    # Standard errors of the means of 8 are 4 to 13% of them; k-means++ is 45% off in the inertia.
    assert (np.abs(mean / peer - 1) < 0.35).all(), (mean, peer)
    plus_plus = KMeans(50, random_state=0).fit(X).inertia_
    assert plus_plus < 0.75 * min(mean[-1], peer[-1])


def test_it_clusters_256_rows_per_cluster_and_each_row_is_as_likely():
    random = np.random.RandomState(0)
    assert sampled_rows(512, 2, random).tolist() == [*range(512)]
    drawn = np.zeros(2000)
    for _ in range(200):
        rows = sampled_rows(2000, 2, random)
        assert len(rows) == 2 * ROWS_PER_CLUSTER == len(np.unique(rows))
        assert (np.diff(rows) > 0).all()
        drawn[rows] += 1
    # Binomial(200, 0.256): mean 51.2, standard deviation 6.2.
    assert abs(drawn.mean() - 51.2) < 1e-9
    assert 5 < drawn.std() < 7.5


def test_a_cluster_without_members_takes_half_of_another():
    centers = np.array([[1.0, 2.0], [5.0, 5.0], [9.0, 9.0]])
    sizes = np.array([7.0, 0.0, 1.0])  # (1 - 1) / (8 - 3) = 0: only the first can be divided
    _divide(centers, sizes, 8, np.random.RandomState(0))
    apart = 1 / 1024
    assert centers.tolist() == [
        [1 - apart, 2 * (1 + apart)], [1 + apart, 2 * (1 - apart)], [9.0, 9.0]
    ]  # fmt: skip
    assert sizes.tolist() == [4, 3, 1]


def test_as_many_rows_as_clusters_are_the_centers():
    X = losses_like(5)
    centers = official_centers(X, 5, np.random.RandomState(0))
    assert sorted(centers.tolist()) == sorted(X.astype(float).tolist())


@pytest.mark.parametrize("init", ["official", "random"])
def test_actors_and_this_process_give_the_same_bits(local_ray, init):
    X = losses_like(3000)
    here, there = (
        KMeans(8, init=init, random_state=3, chunk_rows=700, num_actors=n).fit(X) for n in (None, 2)
    )
    assert np.array_equal(here.cluster_centers_, there.cluster_centers_)
    assert (
        here.inertia_ == there.inertia_ == pytest.approx(assign(X, here.cluster_centers_)[1].sum())
    )
    assert here.n_iter_ == there.n_iter_


def test_random_centers_are_rows_each_as_likely():
    X = np.arange(10.0)[:, None] ** 3
    first = [
        KMeans(9, init="random", random_state=seed, max_iter=1, tol=1e9).fit(X).cluster_centers_
        for seed in range(60)
    ]
    # One of ten rows is no center; after one iteration its neighbour has moved towards it. With
    # k-means++ it is nearly always one of the first, which lie close together.
    moved = np.array([sorted(set(X[:, 0]) - set(np.round(each[:, 0], 9)))[-1] for each in first])
    assert len(np.unique(moved)) >= 7
