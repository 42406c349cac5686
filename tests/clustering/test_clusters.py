"""The clusters stage against plain numpy and scikit-learn, together and by source."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.cluster import KMeans as Sklearn
from sklearn.metrics import adjusted_rand_score, pairwise_distances

from s2l_ray.clustering import clusters as clustering
from s2l_ray.clustering import kmeans
from s2l_ray.clustering.clusters import _Resume, cluster, read_centers
from s2l_ray.clustering.kmeans import KMeans
from s2l_ray.config import ClustersConfig
from s2l_ray.errors import TooFew
from s2l_ray.scoring.trajectories import sample_trajectories

T = 4


def trajectories(store, losses_NT, sources, num_parts=3):
    """A committed trajectories stage, its rows spread over parts as they come."""
    parts = []
    for index, rows in enumerate(np.array_split(np.arange(len(losses_NT)), num_parts)):
        table = pa.table(
            {
                "example_id": pa.array(rows, pa.int64()),
                "source": pa.array([sources[row] for row in rows], pa.string()),
                "losses": pa.FixedSizeListArray.from_arrays(
                    pa.array(losses_NT[rows].astype(np.float32).reshape(-1)), T
                ),
                "num_label_tokens": pa.array([1] * len(rows), pa.int32()),
            }
        )
        parts.append(store.write_part(table, "trajectories/t", f"part-{index:05d}"))
    return store.commit("trajectories/t", "t", parts, {"steps": [1, 2, 3, 4]})


def blobs(count=300, seed=0, centers=4):
    random = np.random.default_rng(seed)
    middle_KT = random.uniform(0, 8, (centers, T))
    return middle_KT[random.integers(centers, size=count)] + random.normal(0, 0.3, (count, T))


def run(store, given, *, by_source=False, **settings):
    config = ClustersConfig(**({"random_state": 0} | settings))
    return cluster(store, given, config, by_source=by_source, folder="clusters/c", fingerprint="c")


def labels_of(store, manifest):
    table = pa.concat_tables([store.read_part("clusters/c", part) for part in manifest.parts])
    assert table["example_id"].to_pylist() == list(range(len(table)))  # the parts' own layout
    assert table.schema.field("cluster_id").type == pa.int32()
    assert table.schema.field("distance").type == pa.float32()
    return table["cluster_id"].to_numpy(), table["distance"].to_numpy()


def test_each_source_goes_on_from_its_own_iteration(store):
    for number in (100, 1000):
        _Resume(store, "clusters/c", number).keep((0, number, 0.5, np.full((2, T), number)))
    assert _Resume(store, "clusters/c", 100).read()[1] == 100
    _Resume(store, "clusters/c", 100).keep((0, 101, 0.5, np.zeros((2, T))))
    assert _Resume(store, "clusters/c", 1000).read()[1] == 1000


@pytest.mark.parametrize("by_source", [False, True])
def test_a_stopped_stage_goes_on_at_its_last_iteration(local_ray, store, by_source, monkeypatch):
    random = np.random.default_rng(3)
    # Enough rows that the short runs which k-means begins with end far from a fixed point.
    given = trajectories(store, random.normal(size=(6000, T)), ["a", "b"] * 3000)
    whole = run(store, given, by_source=by_source, n_clusters=12, tol=0)
    assert whole.info["n_iter"] > 6
    wanted = read_centers(store, whole)
    for name in store.names("clusters/c"):
        store.remove("clusters/c", name)

    keep, kept = _Resume.keep, []

    def die_at_the_fourth(self, state):
        keep(self, state)
        kept.append(state[1])
        if len(kept) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Resume, "keep", die_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(store, given, by_source=by_source, n_clusters=12, tol=0)
    assert kept == [1, 2, 3, 4]
    again = run(store, given, by_source=by_source, n_clusters=12, tol=0)
    assert kept[4] == 5
    assert read_centers(store, again).tobytes() == wanted.tobytes()
    assert again.info == whole.info
    assert again.parts == whole.parts
    assert "resume" not in store.names("clusters/c")


@pytest.mark.parametrize("by_source", [False, True])
def test_every_setting_of_k_means_reaches_it(local_ray, store, by_source):
    losses_NT, sources = blobs(700, centers=30), ["a", "b"] * 350
    given = trajectories(store, losses_NT, sources)
    all_settings = {"n_clusters": 20, "max_iter": 9, "tol": 0.01, "random_state": 5}
    found = []
    for init in ("k-means++", "random", "official"):
        settings = all_settings | {"init": init}
        assert settings.keys() == ClustersConfig.model_fields.keys() - {"num_actors", "stability"}
        made = run(store, given, by_source=by_source, **settings)
        rows = [slice(0, None, 2), slice(1, None, 2)] if by_source else [slice(None)]
        wanted = [KMeans(**settings).fit(losses_NT[each].astype(np.float32)) for each in rows]
        found.append(np.concatenate([fit.cluster_centers_ for fit in wanted]))
        assert read_centers(store, made).tobytes() == found[-1].tobytes()
        for name in store.names("clusters/c"):
            store.remove("clusters/c", name)
    assert not np.array_equal(found[0], found[1]) and not np.array_equal(found[1], found[2])


@pytest.mark.parametrize("by_source", [False, True])
def test_actors_and_this_process_give_the_same_bits(local_ray, store, by_source):
    random = np.random.default_rng(3)
    given = trajectories(store, random.normal(size=(40_000, T)), ["a", "b"] * 20_000)
    manifests = []
    for num_actors in (2, None):
        manifests.append(
            run(store, given, by_source=by_source, n_clusters=12, num_actors=num_actors)
        )
        centers = read_centers(store, manifests[-1])
        for name in store.names("clusters/c"):
            store.remove("clusters/c", name)
    assert manifests[0] == manifests[1]  # the checksums of all files
    assert len(centers) == (24 if by_source else 12)


def test_labels_are_the_nearest_centers_and_centers_the_means(local_ray, store):
    losses_NT = blobs()
    manifest = run(store, trajectories(store, losses_NT, ["a"] * 300), n_clusters=4)
    labels, distances = labels_of(store, manifest)
    centers_KT = read_centers(store, manifest)
    assert centers_KT.shape == (4, T)
    # Given the centers, scikit-learn puts every row where we do.
    given = Sklearn(4, init=centers_KT, n_init=1, max_iter=1).fit(centers_KT)
    given.cluster_centers_ = centers_KT
    assert (labels == given.predict(losses_NT)).all()
    all_NK = pairwise_distances(losses_NT, centers_KT)
    assert np.allclose(distances, all_NK.min(axis=1), atol=1e-5)
    for k in range(4):
        assert np.allclose(centers_KT[k], losses_NT[labels == k].mean(axis=0), atol=1e-4)
    # Clear clusters: any good k-means finds them.
    whole = Sklearn(4, n_init=5, random_state=0).fit(losses_NT)
    assert adjusted_rand_score(whole.labels_, labels) == 1
    info = manifest.info
    assert info["inertia"] == pytest.approx(whole.inertia_, rel=1e-4)
    assert info["inertia"] == pytest.approx((distances.astype(float) ** 2).sum(), rel=1e-4)
    assert info["sizes"] == np.bincount(labels).tolist()
    assert info["sources"] == [None] * 4 and info["n_iter"] >= 1
    # The diagnostics: of clear clusters, the same with any seed.
    assert info["adjusted_rand"] == 1
    centred = losses_NT - losses_NT.mean(axis=0)
    variances = np.linalg.eigvalsh(centred.T @ centred)
    assert info["level_share"] == pytest.approx(variances[-1] / variances.sum(), rel=1e-4)
    assert manifest.rows == 300
    assert [part.unit for part in manifest.parts] == [f"part-0000{i}" for i in range(3)]


def test_any_number_of_actors_writes_the_same_bytes(local_ray, store, monkeypatch):
    # Small chunks, so that there is something to spread.
    monkeypatch.setattr(kmeans, "KMeans", partial(KMeans, chunk_rows=40))
    given = trajectories(store, blobs(), ["a"] * 300)
    results = []
    for actors in (1, 3):
        run(store, given, n_clusters=5, num_actors=actors)
        names = store.objects.sizes("clusters/c")
        results.append({name: store.read_bytes("clusters/c", name) for name in names})
        store.remove("clusters/c")
    assert results[0] == results[1] and "centers.arrow" in results[0]


def test_by_source_each_source_has_clusters_of_its_own(local_ray, store):
    losses_NT = blobs(200)
    random = np.random.default_rng(1)
    sources = random.choice(["b", "a", "c"], size=200, p=[0.6, 0.3, 0.1]).tolist()
    only = [i for i, source in enumerate(sources) if source == "c"]
    losses_NT[only] = [1, 2, 3, 4]  # a source of one distinct row: K is lowered to 1
    losses_NT[only[0]] = [4, 3, 2, 1]  # to 2
    given = trajectories(store, losses_NT, sources)
    manifest = run(store, given, by_source=True, n_clusters=3)
    labels, _ = labels_of(store, manifest)
    assert manifest.info["sources"] == ["a"] * 3 + ["b"] * 3 + ["c"] * 2
    assert manifest.info["sizes"] == np.bincount(labels, minlength=8).tolist()
    assert min(manifest.info["sizes"]) >= 1
    assert manifest.info["adjusted_rand"] is None
    centers_KT = read_centers(store, manifest)
    for source, first, count in (("a", 0, 3), ("b", 3, 3), ("c", 6, 2)):
        mine = np.flatnonzero(np.array(sources) == source)
        own_KT = centers_KT[first : first + count]
        nearest = pairwise_distances(losses_NT[mine], own_KT).argmin(axis=1)
        assert (labels[mine] == nearest + first).all()
    rows = store.read_bytes("clusters/c", "centers.arrow")
    table = pa.ipc.open_file(pa.BufferReader(rows)).read_all()
    assert table["cluster_id"].to_pylist() == list(range(8))
    assert table["source"].to_pylist() == manifest.info["sources"]


def test_too_few_distinct_rows(local_ray, store):
    same = np.ones((30, T))
    given = trajectories(store, same, ["a"] * 15 + ["b"] * 15)
    with pytest.raises(ValueError, match=r"distinct.* 1\b|\b1 distinct") as failure:
        run(store, given, n_clusters=3)
    assert "n_clusters" in str(failure.value) and "3" in str(failure.value)
    assert store.manifest("clusters/c") is None
    manifest = run(store, given, by_source=True, n_clusters=3)
    assert manifest.info["sources"] == ["a", "b"]
    assert manifest.info["sizes"] == [15, 15]
    assert manifest.info["inertia"] == 0
    assert manifest.info["level_share"] is None  # nothing varies


def test_more_clusters_than_rows(local_ray, store):
    given = trajectories(store, blobs(20), ["a"] * 20)
    with pytest.raises(TooFew, match="n_clusters: 21, but there are only 20 examples"):
        run(store, given, n_clusters=21)


def test_stability_can_be_left_out_and_level_share_of_curves_with_a_common_shape(local_ray, store):
    # Parallel trajectories: the level is all that differs.
    level_N = np.random.default_rng(2).normal(3, 1, 60)
    losses_NT = level_N[:, None] + np.array([3.0, 2.0, 1.5, 1.0])
    given = trajectories(store, losses_NT, ["a"] * 60)
    manifest = run(store, given, n_clusters=2, stability=False)
    assert manifest.info["adjusted_rand"] is None
    assert manifest.info["level_share"] == pytest.approx(1)


def test_stability_compares_fits_to_the_same_rows(local_ray, store, monkeypatch):
    losses_NT = np.random.default_rng(4).normal(size=(300, T))
    given = trajectories(store, losses_NT, ["a"] * 300)
    monkeypatch.setattr(clustering, "sample_trajectories", partial(sample_trajectories, rows=150))
    sample_NT = losses_NT[:150].astype(np.float32)
    one, other = (
        KMeans(3, random_state=seed, num_actors=1).fit(sample_NT).predict(sample_NT)
        for seed in (0, 1)
    )
    found = run(store, given, n_clusters=3).info["adjusted_rand"]
    assert found == pytest.approx(adjusted_rand_score(one, other)) and found < 1


def test_the_sample_is_whole_parts_in_order(store):
    given = trajectories(store, blobs(30), ["a"] * 30)
    assert sample_trajectories(store, given, 15)["example_id"].to_pylist() == list(range(15))
    assert len(sample_trajectories(store, given)) == 30


def test_labels_by_other_centers_are_not_taken(local_ray, store):
    """As after a stop between the labels and the manifest, and another type of CPU that goes on."""
    given = trajectories(store, blobs(), ["a"] * 300)
    whole = run(store, given, n_clusters=4)
    written = [Path(store.address("clusters/c", part.file)) for part in whole.parts]
    times = [path.stat().st_mtime_ns for path in written]
    for seed, taken in ((0, True), (1, False)):
        store.remove("clusters/c", "manifest.json")
        again = run(store, given, n_clusters=4, random_state=seed)
        assert (again.parts == whole.parts) == taken
        assert [path.stat().st_mtime_ns for path in written] == times
        labels, _ = labels_of(store, again)
        centers_KT, points_NT = read_centers(store, again), blobs().astype(np.float32)
        assert (labels == pairwise_distances(points_NT, centers_KT).argmin(axis=1)).all()
        assert again.info["sizes"] == np.bincount(labels).tolist()
