"""KMeans against scikit-learn, against itself on other layouts, and against what users do wrong."""

import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from sklearn.base import clone
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from support.head import REPOSITORY

from s2l_ray.clustering import chunks, lloyd, nearest
from s2l_ray.clustering.kmeans import KMeans
from s2l_ray.clustering.nearest import assign
from s2l_ray.clustering.rows import cut_into_chunks
from s2l_ray.execution.actors import ActorPool

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("local_ray"),
]


def losses_like(num_rows, num_checkpoints=6, seed=0):
    """Heavy-tailed levels that fall over the checkpoints, as float32."""
    rng = np.random.default_rng(seed)
    level = rng.lognormal(0.0, 0.9, (num_rows, 1))
    decay = np.exp(-rng.gamma(2.0, 0.15, (num_rows, 1)) * np.arange(num_checkpoints))
    noise = rng.standard_t(3, (num_rows, num_checkpoints))
    return (level * decay + 0.05 * noise).astype(np.float32)


X = losses_like(3000)
INIT = X[np.random.default_rng(1).choice(len(X), 12, replace=False)].astype(np.float64)


def small(**changes):
    return KMeans(**{"n_clusters": 12, "init": INIT, "chunk_rows": 400, "num_actors": 1} | changes)


def dataset_of(losses_NT):
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(losses_NT).ravel()), losses_NT.shape[1]
    )
    return ray.data.from_arrow(pa.table({"losses": column, "example_id": np.arange(len(column))}))


def alive_actors():
    # The state API needs the dashboard, which the tests do without.
    table = ray._private.state.actors().values()
    return [a for a in table if a["ActorClassName"] == "ChunkActor" and a["State"] == "ALIVE"]


def assert_same_fit(got, wanted):
    assert np.array_equal(got.cluster_centers_, wanted.cluster_centers_)
    assert got.inertia_ == wanted.inertia_
    assert got.n_iter_ == wanted.n_iter_


@pytest.fixture(scope="module")
def fitted(local_ray):
    return small(tol=1e-8, num_actors=2).fit(X)


@pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 1e-4), (np.float64, 0)])
def test_agrees_with_sklearn_from_the_same_init(dtype, tol):
    data = X.astype(dtype) + dtype(0 if dtype is np.float32 else 1000.0)
    init = INIT + data.mean(axis=0, dtype=np.float64) - X.mean(axis=0, dtype=np.float64)
    ours = small(init=init, tol=tol).fit(data)
    oracle = SklearnKMeans(12, init=init, n_init=1, tol=tol, algorithm="lloyd")
    oracle.fit(data.astype(np.float64))
    assert ours.n_iter_ == oracle.n_iter_ > 5
    np.testing.assert_allclose(ours.cluster_centers_, oracle.cluster_centers_, rtol=1e-8)
    assert ours.inertia_ == pytest.approx(oracle.inertia_, rel=1e-10)
    labels = ours.predict(data)
    assert labels.dtype == np.int32
    assert np.array_equal(labels, oracle.labels_)
    assert ours.cluster_centers_.dtype == np.float64
    assert ours.n_features_in_ == 6


def test_hand_computed():
    data = np.array([[0.0, 0], [0, 2], [10, 0], [10, 4]])
    init = [[0.0, 0], [10, 0]]
    model = KMeans(2, init=init, chunk_rows=3).fit(data)
    # {rows 0, 1} and {rows 2, 3}: means (0, 1) and (10, 2); 1 + 1 + 4 + 4 = 10.
    assert model.cluster_centers_.tolist() == [[0.0, 1.0], [10.0, 2.0]]
    assert model.inertia_ == 10.0
    assert model.n_iter_ == 2
    cluster_id, squared = assign(data, model.cluster_centers_)
    assert cluster_id.tolist() == [0, 0, 1, 1]
    assert squared.tolist() == [1.0, 1.0, 4.0, 4.0]
    assert (cluster_id.dtype, squared.dtype) == (np.int32, np.float64)


def test_assign_against_a_naive_loop_across_tiles():
    data = losses_like(2 * nearest._ROWS + 7, seed=3)
    cluster_id, squared = assign(data, INIT)
    wide = data.astype(np.float64)
    naive = np.stack([((wide - center) ** 2).sum(axis=1) for center in INIT], axis=1)
    assert np.array_equal(cluster_id, naive.argmin(axis=1))
    np.testing.assert_allclose(squared, naive.min(axis=1), rtol=1e-9)
    assert assign(np.array([[1.0]]), np.array([[2.0], [0.0], [2.0]]))[0].tolist() == [0]  # a tie
    assert [len(result) for result in assign(data[:0], INIT)] == [0, 0]


def test_any_number_of_actors_gives_the_same_bits(fitted):
    assert_same_fit(small(tol=1e-8, num_actors=1).fit(np.asfortranarray(X)), fitted)
    assert_same_fit(small(tol=1e-8, num_actors=3).fit(X), fitted)


@pytest.mark.parametrize("kind", ["float64 list", "tensor", "pandas"])
def test_any_dataset_gives_the_same_bits(fitted, kind):
    if kind == "float64 list":
        dataset = dataset_of(X.astype(np.float64)).repartition(1)
    elif kind == "tensor":
        dataset = ray.data.from_numpy(X).rename_columns({"data": "losses"}).repartition(7)
    else:
        dataset = ray.data.from_pandas(pa.table({"losses": list(X)}).to_pandas())
    num_actors = 3 if kind == "tensor" else 1
    assert_same_fit(small(tol=1e-8, num_actors=num_actors).fit(dataset), fitted)


def test_many_parquet_files_give_the_same_bits(fitted, tmp_path):
    for part, rows in enumerate(np.array_split(np.arange(len(X)), 5)):
        table = pa.table({"losses": list(X[rows]), "other": rows})
        pq.write_table(table, tmp_path / f"part-{part}.parquet")
    dataset = ray.data.read_parquet(str(tmp_path))
    before = dataset.context.execution_options.preserve_order
    assert_same_fit(small(tol=1e-8).fit(dataset), fitted)
    assert dataset.context.execution_options.preserve_order == before


def test_empty_cluster_is_refilled_as_sklearn_does():
    # The last center is far from every row: it gets none, then the row farthest from its center.
    init = np.vstack([INIT[:11], np.full((1, 6), 1e4)])
    ours = small(init=init, chunk_rows=700).fit(X)
    oracle = SklearnKMeans(12, init=init, n_init=1, algorithm="lloyd").fit(X.astype(np.float64))
    np.testing.assert_allclose(ours.cluster_centers_, oracle.cluster_centers_, rtol=1e-8)
    assert ours.inertia_ == pytest.approx(oracle.inertia_, rel=1e-10)
    assert ours.n_iter_ == oracle.n_iter_


def test_empty_clusters_take_tied_rows_lowest_first_and_max_iter_warns():
    data = np.array([[0.0], [9.0], [-9.0], [1.0], [-1.0]])
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        model = KMeans(3, init=[[0.0], [1e3], [2e3]], max_iter=1, chunk_rows=2, num_actors=1).fit(
            data
        )
    assert model.n_iter_ == 1
    # Rows 1 and 2 are equally far from center 0: row 1 fills cluster 1, row 2 fills cluster 2.
    np.testing.assert_allclose(model.cluster_centers_, [[0.0], [9.0], [-9.0]], atol=1e-12)


def test_plusplus_is_as_good_as_sklearn_and_repeatable(monkeypatch):
    oracle = SklearnKMeans(12, n_init=1, random_state=5).fit(X.astype(np.float64))
    ours = small(init="k-means++", random_state=5).fit(X)
    assert ours.inertia_ <= 1.05 * oracle.inertia_


def test_samples_that_grow_lead_to_the_same_optimum_and_are_repeatable(monkeypatch):
    for name, value in {"_SEED_ROWS": 200, "_SEED_ROWS_PER_CLUSTER": 1, "_GROWTH": 3}.items():
        monkeypatch.setattr(lloyd, name, value)
    oracle = SklearnKMeans(12, n_init=10, random_state=5).fit(X.astype(np.float64))
    settings, states = {"init": "k-means++", "tol": 1e-6, "chunk_rows": 500}, []
    sampled = small(**settings, random_state=5).fit(X, keep=states.append)
    assert sampled.inertia_ <= 1.02 * oracle.inertia_
    assert {phase for phase, *_ in states} == {0, 1}  # 600 rows, then all
    again = small(**settings, random_state=np.random.RandomState(5), num_actors=2)
    assert_same_fit(again.fit(dataset_of(X).repartition(3)), sampled)
    for state in states[:: max(1, len(states) // 4)]:
        assert_same_fit(small(**settings, random_state=5).fit(X, state=state), sampled)
    # Without actors, in threads of this process: the same bits.
    assert_same_fit(small(**settings, random_state=5, num_actors=None).fit(X), sampled)


def test_a_small_array_needs_no_ray(fitted, tmp_path):
    np.savez(tmp_path / "data.npz", X=X, INIT=INIT)
    script = (
        "import numpy as np, ray\n"
        "from s2l_ray.clustering.kmeans import KMeans\n"
        f"data = np.load({str(tmp_path / 'data.npz')!r})\n"
        "model = KMeans(12, init=data['INIT'], chunk_rows=400, tol=1e-8).fit(data['X'])\n"
        "assert not ray.is_initialized()\n"
        f"np.save({str(tmp_path / 'centers.npy')!r}, model.cluster_centers_)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
    assert np.array_equal(np.load(tmp_path / "centers.npy"), fitted.cluster_centers_)


def test_a_sample_stands_for_all_rows():
    sample = chunks.Sample(800, len(X), float(X.var(axis=0).sum() * len(X)), seed=3)
    mean_T, chunks_ = X.mean(axis=0, dtype=float), cut_into_chunks(X, 400)
    with ActorPool(ray.remote(chunks.ChunkActor), chunks_, 1) as pool:
        rows, weights = zip(*pool.each_chunk("sample", mean_T, sample), strict=True)
        rows, weights = np.concatenate(rows), np.concatenate(weights)
        assert 400 < len(rows) < 900  # the far ones have no chance above one
        assert weights.min() >= 1 and weights.sum() == pytest.approx(len(X), rel=0.1)
        total = (rows * weights[:, None]).sum(axis=0) / len(X)
        np.testing.assert_allclose(total, 0, atol=0.1 * X.std())
        everything = pool.each_chunk("sample", mean_T, sample._replace(rows=2 * len(X)))
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in everything]), X - mean_T)
    # The farthest rows are in it: a uniform sample of these would have one in four.
    squared = ((X - mean_T) ** 2).sum(axis=1)
    far = X[np.argsort(-squared)[:20]] - mean_T
    assert sum((row == rows).all(axis=1).any() for row in far) == 20


def test_predict_on_a_dataset(fitted):
    dataset = fitted.predict(dataset_of(X).repartition(4)).materialize()
    types = dict(zip(dataset.schema().names, dataset.schema().types, strict=True))
    assert (types["cluster_id"], types["distance"]) == (pa.int32(), pa.float32())
    rows = dataset.to_pandas().sort_values("example_id")
    labels = fitted.predict(X)
    assert np.array_equal(rows["cluster_id"], labels)
    own = np.linalg.norm(X.astype(np.float64) - fitted.cluster_centers_[labels], axis=1)
    np.testing.assert_allclose(rows["distance"], own, rtol=1e-6)
    assert fitted.inertia_ == pytest.approx((own**2).sum(), rel=1e-10)


def test_a_killed_actor_is_replaced_and_changes_nothing(fitted, monkeypatch, caplog):
    monkeypatch.setattr(lloyd, "_LOG_SECONDS", 0.0)
    killed = []

    class KillAtIteration3(logging.Handler):
        def emit(self, record):
            if "iteration 3:" in record.getMessage():
                killed.append(alive_actors()[0])
                os.kill(killed[0]["Pid"], signal.SIGKILL)

    handler = KillAtIteration3(logging.INFO)
    lloyd.logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, logger="s2l_ray"):
            assert_same_fit(small(tol=1e-8, num_actors=2).fit(X), fitted)
    finally:
        lloyd.logger.removeHandler(handler)
    assert len(killed) == 1
    assert caplog.text.count("an actor died") == 1


def test_actors_are_released_after_success_and_after_an_error(fitted):
    with pytest.raises(ValueError, match=r"shape \(12, 5\), expected \[K, T\] = \(12, 6\)"):
        small(init=INIT[:, :5]).fit(X)
    deadline = time.monotonic() + 10
    while alive_actors() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive_actors() == []


def test_speaks_sklearn():
    model = KMeans(7, tol=0.5, random_state=3)
    assert clone(model).get_params() == model.get_params()
    assert model.get_params()["n_clusters"] == 7
    assert model.set_params(n_clusters=4).n_clusters == 4
    labels = small(max_iter=3).fit_predict(X)
    oracle = SklearnKMeans(12, init=INIT, n_init=1, max_iter=3).fit(X.astype(np.float64))
    assert np.array_equal(labels, oracle.labels_)
    with pytest.raises(NotFittedError):
        KMeans().predict(X)


def with_value(row, value):
    data = X[:500].copy()
    data[row, 2] = value
    data[row + 40, 1] = np.nan
    return data


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (X[0], {}, r"shape \(6,\), expected \[N, T\]"),
        (X[:, :0], {}, r"shape \(3000, 0\)"),
        (X[:0], {}, "no rows"),
        (with_value(443, -np.inf), {}, "2 of 500 rows hold NaN or inf, the first is row 443"),
        (X, {"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        (X, {"num_actors": 0}, "num_actors must be an integer >= 1, got 0"),
        (X, {"chunk_rows": 2.5}, "chunk_rows must be an integer >= 1, got 2.5"),
        (X, {"tol": -1}, "tol must be >= 0, got -1"),
        (X[:9], {}, "n_clusters=12 needs as many rows, got 9"),
        (X, {"init": INIT * np.nan}, "init holds NaN or inf"),
        (X, {"init": "kmeans"}, "init must be one of 'k-means\\+\\+', .* got 'kmeans'"),
        (
            np.repeat(X[:7], 72, axis=0)[:500],
            {"n_clusters": 10, "init": "k-means++"},
            "found 7 distinct rows among 500, n_clusters=10 needs at least 10",
        ),
        (np.array([[0.0], [-0.0]]), {"n_clusters": 2, "init": "k-means++"}, "found 1 distinct"),
    ],
)
def test_fit_says_what_is_wrong(data, changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes).fit(data)


def of(losses):
    return ray.data.from_arrow(pa.table({"losses": losses}))


def test_fit_on_a_dataset_says_what_is_wrong():
    def fails(dataset, message):
        with pytest.raises(ValueError, match=message):
            small(n_clusters=2, init="k-means++", chunk_rows=2).fit(dataset)

    fails(
        ray.data.from_items([{"loss": 1.0, "id": 2}]), r"no column 'losses', it has \['loss', 'id"
    )
    fails(of([[1.0, 2]]).filter(lambda row: False), "no rows|no column")
    fails(of([[1.0, 2]] * 3 + [[3.0]]), "unequal length: row 2 has 2 losses, row 3 has 1")
    fails(of([[1.0, 2], [3.0, 4], [3.0]]), "between 1 and 2 losses, expected one T")
    blocks = ray.data.from_arrow([pa.table({"losses": rows}) for rows in ([[1.0, 2]], [[3.0]])])
    fails(blocks, "unequal length: row 0 has 2 losses, row 1 has 1")


def test_predict_says_what_is_wrong(fitted):
    with pytest.raises(ValueError, match=r"shape \(3000, 5\), expected \[N, T\] with T=6"):
        fitted.predict(X[:, :5])
    with pytest.raises(ValueError, match="2 of 500 rows hold NaN or inf, the first is row 3"):
        fitted.predict(with_value(3, np.inf))
    with pytest.raises(ValueError, match="no column 'losses'"):
        fitted.predict(ray.data.from_items([{"loss": 1.0}]))


def test_predict_on_a_dataset_says_what_is_wrong(fitted):
    six = [0.5] * 6
    ragged = ray.data.from_items([{"losses": np.zeros(6)}, {"losses": np.zeros(7)}])
    ragged = ragged.repartition(1)
    cubes = ray.data.from_numpy(np.zeros((4, 2, 3))).rename_columns({"data": "losses"})
    for dataset, message in [
        (dataset_of(X[:50, :5]), r"expected \[N, T\] with T=6"),
        (of([six, [*six[:5], None]]), "1 of 2 rows hold NaN or inf, the first is row 1"),
        (of([1.0, 2.0]), "must hold lists of floats, got double"),
        (of([six, None]), "1 rows that are null"),
        (ragged, "row 0 has 6 losses, row 1 has 7"),
        (cubes, "must hold lists of floats"),
    ]:
        with pytest.raises(ray.exceptions.RayError, match=message):
            fitted.predict(dataset).materialize()
