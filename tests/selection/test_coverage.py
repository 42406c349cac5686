"""Coverage of features in greedy order: against every subset, and against the greedy rules written
out over all pairs. N examples, D features."""

import itertools
import os
import signal

import numpy as np
import pyarrow as pa
import pytest
import ray

from s2l_ray.execution.actors import ActorPool
from s2l_ray.selection import coverage
from s2l_ray.selection.coverage import FeatureWork, chunks_of, cover
from s2l_ray.selection.cut import cut, keys
from s2l_ray.selection.greedy import grid, on_grid
from s2l_ray.selection.histogram import Order, histogram_of
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest

RULES = ("facility_location", "k_center")


def blobs(count, width=5, seed=0):
    """Directions and lengths of a few kinds, around a mean that is not zero."""
    random = np.random.default_rng(seed)
    middle_KD = random.normal(size=(6, width))
    own_ND = middle_KD[random.integers(6, size=count)] + random.normal(0, 0.3, (count, width)) + 0.5
    return (own_ND * random.lognormal(0, 0.5, (count, 1))).astype(np.float32)


def ids_for(count):
    """Not in the order of the rows, lest that order decides ties."""
    return np.random.default_rng(0).permutation(10 * count)[:count].astype(np.int64)


def column(features_ND):
    flat = pa.array(np.ascontiguousarray(features_ND, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, features_ND.shape[1])


def stage(store, features_ND, ids, cuts=(), folder="features/f"):
    """A committed stage of features, its rows cut into parts at `cuts`."""
    parts = []
    for index, (start, stop) in enumerate(itertools.pairwise([0, *cuts, len(ids)])):
        rows = slice(start, stop)
        table = pa.table({"example_id": ids[rows], "features": column(features_ND[rows])})
        parts.append(store.write_part(table, folder, f"part-{index:05d}"))
    return store.commit(folder, "f", parts, {})


def choose(store, features, rule, budget, seed=0):
    """The ids chosen by a rule, in order, and its info: without actors, in this process."""
    work, chunks, steps = FeatureWork(), chunks_of(store, features, selector_named(rule)), []

    def each_chunk(method, *args):
        return work.run(chunks, method, *args)

    ids_N = np.concatenate([ids for ids, _ in each_chunk("inspect")])
    rows, info = selector_named(rule).cover(each_chunk, ids_N, budget, seed, steps.append)
    assert sum(steps) == len(rows) == len(set(rows)) == budget
    return ids_N[rows].tolist(), info


def rank(store, features, rule, budget, *, num_actors, name):
    return cover(store, features, rule=rule, budget=budget, seed=0, num_actors=num_actors,
                 folder=f"rankings/{name}", fingerprint="r")  # fmt: skip


def similarities(features_ND):
    unit_ND = features_ND.astype(np.float64)
    unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
    return (1 + unit_ND @ unit_ND.T) / 2


def distances(features_ND):
    wide_ND = features_ND.astype(np.float64)
    return np.linalg.norm(wide_ND[:, None] - wide_ND[None], axis=2)


def naive_facility_location(features_ND, ids, budget):
    """Two rows that are each other's nearest gain the same, so that ties are common: by id. Fails
    where the grid might decide."""
    sim_NN, rows = similarities(features_ND), []
    for _ in range(budget):
        values = np.array(
            [
                -1 if row in rows else sim_NN[:, [*rows, row]].max(axis=1).sum()
                for row in range(len(sim_NN))
            ]
        )
        behind = values.max() - values
        assert ((behind < 1e-12) | (behind > 1e-6)).all()
        rows.append(min(np.flatnonzero(behind < 1e-12).tolist(), key=lambda row: ids[row]))
    return rows


def naive_k_center(features_ND, first, budget):
    distance_NN, rows = distances(features_ND), [first]
    while len(rows) < budget:
        rows.append(int(distance_NN[:, rows].min(axis=1).argmax()))
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_facility_location_is_naive_greedy(store, seed):
    features_ND, ids = blobs(80, seed=seed), ids_for(80)
    order, info = choose(store, stage(store, features_ND, ids, [30]), "facility_location", 25)
    wanted = naive_facility_location(features_ND, ids, 25)
    assert order == ids[wanted].tolist()
    objective = similarities(features_ND)[:, wanted].max(axis=1).sum()
    assert info["objective"] == pytest.approx(objective, abs=1e-5)
    assert 25 < info["gains"] < 25 + 80 * np.log(25)  # naive: 80 + 79 + ... + 56


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_facility_location_against_every_subset(store, size):
    for seed in range(5):
        features_ND, ids = blobs(12, width=3, seed=seed), ids_for(12)
        features = stage(store, features_ND, ids, folder=f"features/{seed}")
        order, info = choose(store, features, "facility_location", size)
        sim_NN = similarities(features_ND)
        subsets = itertools.combinations(range(12), size)
        best = max(sim_NN[:, list(subset)].max(axis=1).sum() for subset in subsets)
        value = sim_NN[:, [ids.tolist().index(i) for i in order]].max(axis=1).sum()
        assert (1 - 1 / np.e) * best <= value <= best
        assert info["objective"] == pytest.approx(value, abs=1e-5)
        assert value == best or size > 1


@pytest.mark.parametrize("seed", range(4))
def test_k_center_is_naive_farthest_first(store, seed):
    features_ND, ids = blobs(80, seed=seed), ids_for(80)
    order, info = choose(store, stage(store, features_ND, ids, [30]), "k_center", 25, seed)
    wanted = naive_k_center(features_ND, ids.tolist().index(order[0]), 25)
    assert order == ids[wanted].tolist()
    radius = distances(features_ND)[:, wanted].min(axis=1).max()
    assert info["radius"] == pytest.approx(radius)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_k_center_is_within_twice_the_least_radius(store, size):
    for seed in range(5):
        features_ND, ids = blobs(12, width=2, seed=seed), ids_for(12)
        features = stage(store, features_ND, ids, folder=f"features/{seed}")
        _, info = choose(store, features, "k_center", size, seed)
        distance_NN = distances(features_ND)
        subsets = itertools.combinations(range(12), size)
        least = min(distance_NN[:, list(subset)].min(axis=1).max() for subset in subsets)
        assert least * (1 - 1e-12) <= info["radius"] <= 2 * least


def test_the_seed_draws_the_first_center_and_nothing_else(store):
    features_ND, ids = blobs(40), ids_for(40)
    features, turned = stage(store, features_ND, ids), np.arange(40)[::-1]
    backward = stage(store, features_ND[turned], ids[turned], folder="features/b")
    orders = [choose(store, features, "k_center", 3, seed)[0] for seed in (1, 2, 3)]
    assert len({order[0] for order in orders}) == 3
    assert choose(store, backward, "k_center", 3, 2)[0] == orders[1]
    one, two = (choose(store, features, "facility_location", 9, seed) for seed in (1, 2))
    assert one == two == choose(store, backward, "facility_location", 9)


@pytest.mark.parametrize("rule", RULES)
def test_smaller_budgets_are_the_beginning_of_larger_ones(store, rule):
    features = stage(store, blobs(90), ids_for(90), [50])
    small, large, whole = (choose(store, features, rule, b, seed=1) for b in (7, 40, 90))
    assert small[0] == large[0][:7] and large[0] == whole[0][:40]
    assert sorted(whole[0]) == sorted(ids_for(90).tolist())
    if rule == "k_center":
        assert small[1]["radius"] > large[1]["radius"] > whole[1]["radius"] == 0
    else:
        assert small[1]["objective"] < large[1]["objective"] < whole[1]["objective"] == 90


@pytest.mark.parametrize("rule", RULES)
def test_equal_rows_come_by_example_id(store, rule):
    """Sixteen rows, each five times over: all once, then, where nothing is gained, the rest."""
    ids = ids_for(80)
    features = stage(store, np.repeat(blobs(16, width=33, seed=2), 5, axis=0), ids, [3, 41])
    order, _ = choose(store, features, rule, 80)
    kind = {example_id: row // 5 for row, example_id in enumerate(ids.tolist())}
    assert sorted(kind[example_id] for example_id in order[:16]) == list(range(16))
    drawn = 1 if rule == "k_center" else 0
    least = {min(i for i in kind if kind[i] == k) for k in range(16)}
    assert set(order[drawn:16]) <= least
    assert order[16:] == sorted(order[16:])


def test_the_grid_keeps_sums_exact_and_similarities_close():
    assert grid(100_000) == 2**16 and grid(1) == 2**24
    for count in (1, 2, 3, 1000, 2**17, 2**17 + 1, 10**7):
        assert 6 * grid(count) ** 2 * count <= 2**53
    for scale in (1e-40, 1.0, 1e37):
        features_ND = blobs(200, width=64) * np.float32(scale)
        near_NN = 1 - (distances(on_grid(features_ND, 2**16)) / 2**16) ** 2 / 4
        assert np.abs(near_NN - similarities(features_ND)).max() < 3e-5


@pytest.mark.parametrize("rule", RULES)
def test_actors_parts_and_chunks_change_no_bit(local_ray, store, rule, monkeypatch):
    features_ND, ids = blobs(600, width=17), ids_for(600)
    features = stage(store, features_ND, ids, [250])
    one = rank(store, features, rule, 60, num_actors=1, name="one")
    monkeypatch.setattr(coverage, "_CHUNK_ROWS", 64)
    cuts = [10, 10, 110, 111, 400]  # one part without rows
    other = stage(store, features_ND, ids, cuts, folder="features/other")
    three = rank(store, other, rule, 60, num_actors=3, name="three")
    assert three.info == one.info
    assert [part.unit for part in three.parts] == [part.unit for part in other.parts]
    assert [part.rows for part in three.parts] == [10, 0, 100, 1, 289, 200]
    for manifest in (one, three):
        parts = [store.read_part(manifest.folder, part) for part in manifest.parts]
        table = pa.concat_tables(parts)
        assert table.schema.types == [pa.int64(), pa.float64(), pa.int32()]
        assert table["example_id"].to_pylist() == ids.tolist()
        order, info = choose(store, features, rule, 60)
        place = {example_id: float(place) for place, example_id in enumerate(order)}
        assert table["score"].to_pylist() == [place.get(i, 60.0) for i in ids.tolist()]
        assert table["group"].to_pylist() == [0] * 600
        assert manifest.info["sources"] == [None] and info.items() <= manifest.info.items()


@pytest.mark.parametrize("rule", RULES)
def test_an_actor_that_dies_changes_nothing(local_ray, store, rule, monkeypatch):
    monkeypatch.setattr(coverage, "_CHUNK_ROWS", 50)
    features = stage(store, blobs(300), ids_for(300))
    undisturbed, info = choose(store, features, rule, 20)
    each_chunk, calls = ActorPool.each_chunk, []

    def kill_one_first(self, method, *args):
        calls.append(len(self.ready))
        if len(calls) == 12:
            known = ray._private.state.actors()  # (the state API needs the dashboard)
            os.kill(known[self.ready[0]._actor_id.hex()]["Pid"], signal.SIGKILL)
        return each_chunk(self, method, *args)

    monkeypatch.setattr(ActorPool, "each_chunk", kill_one_first)
    manifest = rank(store, features, rule, 20, num_actors=2, name="killed")
    assert calls[11] == 2 and len(calls) > 12
    [part] = manifest.parts
    table = store.read_part(manifest.folder, part).sort_by("score")
    assert table["example_id"].to_pylist()[:20] == undisturbed
    assert info.items() <= manifest.info.items()


def test_the_cut_takes_the_order_and_looks_at_few(local_ray, store):
    ids = ids_for(1000)
    features = stage(store, blobs(1000), ids, [300, 800])
    ranked = rank(store, features, "k_center", 300, num_actors=1, name="cut")
    wanted, _ = choose(store, features, "k_center", 300)
    order = Order.of(ranked, 0)
    assert len(order.edges) == 255 and (np.diff(order.edges) > 0).all()
    counts = np.diff(histogram_of(store, ranked, 1, order).counts_GX[0])
    assert counts[:-1].max() <= 3 and counts[:-1].sum() == 300  # the last: not chosen
    read = [order.read(store, part) for part in ranked.parts]
    everything = [np.concatenate(each) for each in zip(*read, strict=True)]
    taken = cut(*everything, np.array([400]), 0).example_id.tolist()
    # Beyond what was asked for: all that were chosen, then by key.
    rest = np.setdiff1d(ids, wanted)
    by_key = rest[np.argsort(keys(rest, 0))]
    assert taken == wanted + by_key[:100].tolist()


@pytest.mark.parametrize("budget", [0, 31])
def test_a_budget_that_cannot_be_met_is_told(store, budget):
    features = stage(store, blobs(30), ids_for(30))
    with pytest.raises(ValueError, match=rf"selection.budget: {budget} examples, but from 1 to 30"):
        rank(store, features, "k_center", budget, num_actors=1, name="bad")


def test_features_that_are_no_numbers_are_told(local_ray, store):
    features_ND, ids = blobs(30), ids_for(30)
    features_ND[22, 1], features_ND[25] = np.nan, np.inf
    features = stage(store, features_ND, ids, [20])
    message = rf"part-00001-\w+.arrow: the features of example_id {ids[22]} hold NaN or inf.* \(2 s"
    for rule in RULES:
        with pytest.raises(ValueError, match=message):
            choose(store, features, rule, 5)
    with pytest.raises(ValueError, match=message):
        rank(store, features, "k_center", 5, num_actors=1, name="bad")
    assert store.names("rankings") == []


def test_zeros_have_no_direction_but_a_place(store):
    features_ND, ids = blobs(30), ids_for(30)
    features_ND[7] = 0
    features = stage(store, features_ND, ids)
    with pytest.raises(ValueError, match=f"example_id {ids[7]} are all zero, expected a direction"):
        choose(store, features, "facility_location", 5)
    assert ids[7] in choose(store, features, "k_center", 30)[0]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            pa.array([[1.0] * 5] * 3),
            r"features is list<.*double>, expected fixed_size_list<float32>",
        ),
        (pa.array([[1.0] * 5] * 3, pa.list_(pa.float64(), 5)), "expected fixed_size_list<float32>"),
        (pa.array([[1.0] * 5, None, [1.0] * 5], pa.list_(pa.float32(), 5)), "with 1 nulls"),
        (pa.array([[1.0, None]] * 3, pa.list_(pa.float32(), 2)), "with 3 nulls"),
        (None, r"columns \['example_id'\], no features"),
    ],
)
def test_a_column_of_another_kind_is_told(store, second, message):
    columns = {"example_id": np.arange(3)} | ({} if second is None else {"features": second})
    part = store.write_part(pa.table(columns), "features/f", "part-00000")
    with pytest.raises(ValueError, match=message):
        choose(store, Manifest("features/f", "f", [part]), "k_center", 2)


def test_features_of_unequal_length_are_told(local_ray, store):
    parts = [
        store.write_part(
            pa.table({"example_id": np.arange(3), "features": column(np.ones((3, width)))}),
            "features/f",
            f"part-{width}",
        )
        for width in (4, 5)
    ]
    with pytest.raises(ValueError, match="between 4 and 5 numbers, expected one length"):
        rank(store, Manifest("features/f", "f", parts), "k_center", 2, num_actors=1, name="bad")
