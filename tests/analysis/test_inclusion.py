"""Probabilities from stages of a run directory, against groups and subsets computed by hand."""

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.analysis.inclusion import chances, measure, part_tally, properties
from s2l_ray.analysis.laws import law, pair
from s2l_ray.corpus.copies import Copies
from s2l_ray.selection.cut import cut
from s2l_ray.store import Manifest
from s2l_ray.store.views import CorpusView

PARTS, N, CHECKPOINTS = 4, 240, 3
CORPUS = CorpusView(Manifest("corpus/a", "a", [], {"num_parts": PARTS}))


@pytest.fixture
def data():
    random = np.random.default_rng(7)
    ids = np.sort(random.integers(2**63 - 1, size=N))
    losses_NT = random.gamma(2.0, size=(N, CHECKPOINTS)).astype(np.float32)
    sources = np.array(["a", "b", "c"])[random.integers(3, size=N)]
    return {
        "example_id": ids,
        "source": sources,
        "losses": losses_NT,
        "num_label_tokens": random.integers(1, 90, size=N).astype(np.int32),
    }


def parts_of(ids):
    return np.array([(int(each) * PARTS) >> 63 for each in ids])


def stage(store, name, columns, units="part-{:05d}", keep=slice(None), **info):
    ids, written = columns["example_id"], []
    kept = np.zeros(len(ids), bool)
    kept[keep] = True
    for number in range(PARTS):
        mine = kept & (parts_of(ids) == number)
        table = pa.table({key: arrow(values[mine]) for key, values in columns.items()})
        written.append(store.write_part(table, name, units.format(number)))
    return store.commit(name, name, written, info)


def arrow(values):
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def subset(store, name, selector, ids, seed=0, by_cluster=None, by_source=None):
    """A selection of these ids in rank order, in parts of 25."""
    written = [
        store.write_part(pa.table({"example_id": ids[at : at + 25]}), name, f"subset/part-{at:05d}")
        for at in range(0, len(ids), 25)
    ]
    info = {
        "selector": selector, "seed": seed, "examples": len(ids), "by_cluster": by_cluster,
        "by_source": by_source or {}, "candidates": N,
    }  # fmt: skip
    return store.commit(name, name, written, info)


@pytest.fixture
def trajectories(store, data):
    return stage(store, "trajectories", data, steps=[1, 2, 3])


def bins(data, edges):
    return np.searchsorted(edges, data["losses"].astype(np.float64).mean(axis=1), "right")


def test_clusters_leave_out_who_is_no_candidate(local_ray, store, data, trajectories):
    label = (np.arange(N) * 7 % 12).astype(np.int32)
    candidates = np.arange(N) % 5 > 0
    columns = {"example_id": data["example_id"], "cluster_id": label}
    groups = stage(store, "clusters", columns, keep=candidates, sources=[None] * 12)
    sizes, quotas = np.bincount(label[candidates]), np.arange(12)
    made = subset(store, "s", "s2l", data["example_id"][:66], by_cluster=quotas.tolist())
    told_apart = properties(store, trajectories, {"c": 1, "a": 1, "b": 1})
    assert told_apart.sources == ["a", "b", "c"] and len(told_apart.loss_edges) == 9
    found = measure(store, trajectories, told_apart, [chances(store, made, groups, CORPUS)])
    chance = np.where(candidates, quotas[label] / sizes[label], 0.0)
    mine = law(found, 0)
    assert mine.examples == N and mine.chosen == pytest.approx(66)
    assert mine.reach == pytest.approx((chance > 0).mean())
    assert mine.effective == pytest.approx((chance > 0).sum() ** 2 / (1 / chance[chance > 0]).sum())
    by_loss = np.bincount(bins(data, told_apart.loss_edges), chance, 10) / 66
    assert mine.subset["loss"] == pytest.approx(by_loss.tolist())
    by_source = [chance[data["source"] == each].sum() / 66 for each in "abc"]
    assert mine.subset["source"] == pytest.approx(by_source)
    lengths = np.searchsorted(told_apart.length_edges, data["num_label_tokens"], "right")
    assert mine.corpus["length"] == pytest.approx((np.bincount(lengths) / N).tolist())


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("units", ["part-{:05d}", "step-000300/part-{:05d}"])
def test_a_ranking_includes_exactly_its_subset(local_ray, store, data, trajectories, seed, units):
    ids, score = data["example_id"], np.round(data["losses"][:, 0], 1).astype(np.float64)  # ties
    chosen = cut(ids, np.zeros(N, np.int32), score, np.array([70]), seed).example_id
    groups = {"example_id": ids, "group": np.zeros(N, np.int32), "score": score}
    ranking = stage(store, "rank", groups, units, sources=[None], edges=[0.5])
    made = subset(store, "s", "el2n", chosen, seed)
    told_apart = properties(store, trajectories, ["a", "b", "c"])
    of = [chances(store, made, ranking, CORPUS)]
    found = law(measure(store, trajectories, told_apart, of), 0)
    included = np.isin(ids, chosen)
    assert (found.chosen, found.effective) == (70, 70)
    wanted = np.bincount(bins(data, told_apart.loss_edges)[included], minlength=10) / 70
    assert found.subset["loss"] == pytest.approx(wanted.tolist())
    # And example by example, from the sums of one part.
    for part in trajectories.parts:
        tally = part_tally(part, store, trajectories.folder, told_apart, of)
        number = int(part.unit[-5:])
        assert tally.chosen_S[0] == (included & (parts_of(ids) == number)).sum()


def test_copies_that_a_cap_leaves_out_have_no_chance(local_ray, store, data, trajectories):
    ids, place = data["example_id"], (np.arange(N) % 4).astype(np.int32)
    near = {"example_id": ids, "group": np.repeat(ids[::4], 4), "place": place}
    copies = Copies.of(stage(store, "near", near, num_parts=PARTS), 3)
    label = (np.arange(N) * 7 % 12).astype(np.int32)
    clusters = {"example_id": ids, "cluster_id": label}
    groups = stage(store, "clusters", clusters, sources=[None] * 12)
    quotas, kept = np.arange(12), place < 3
    drawn = subset(store, "s", "s2l", ids[:66], by_cluster=quotas.tolist())
    every = subset(store, "r", "random", ids[:60])
    every.info["candidates"] = int(kept.sum())
    told_apart = properties(store, trajectories, ["a", "b", "c"])
    of = [
        chances(store, drawn, groups, CORPUS, copies),
        chances(store, every, trajectories, CORPUS, copies),
    ]
    found = measure(store, trajectories, told_apart, of)
    sizes = np.bincount(label[kept], minlength=12)
    of_cluster = quotas / np.maximum(sizes, 1)
    by_hand = np.where(kept, of_cluster[label], 0), np.where(kept, 60 / kept.sum(), 0)
    binned = bins(data, told_apart.loss_edges)
    for place, chance in enumerate(by_hand):
        mine = law(found, place)
        wanted = np.bincount(binned, chance, minlength=10) / chance.sum()
        assert mine.subset["loss"] == pytest.approx(wanted.tolist())
        assert mine.reach == pytest.approx((chance > 0).mean())


def test_draws_from_all_from_sources_and_from_strata(local_ray, store, data, trajectories):
    ids, source = data["example_id"], np.searchsorted(["a", "b", "c"], data["source"])
    counts = np.bincount(source)
    by_source = stage(
        store, "by_source", {"example_id": ids, "group": source.astype(np.int32)},
        sources=["a", "b", "c"], edges=None,
    )  # fmt: skip
    stratum = np.searchsorted([40, 140], np.arange(N), "right").astype(np.int32)
    strata = stage(
        store, "strata", {"example_id": ids, "group": stratum}, sources=[None] * 3, edges=None
    )
    made = [
        (subset(store, "r", "random", ids[:60]), trajectories),
        (
            subset(store, "b", "random_balanced", ids[:60], by_source=dict.fromkeys("abc", 20)),
            by_source,
        ),
        (subset(store, "l", "loss_strata", ids[:60]), strata),
    ]  # fmt: skip
    told_apart = properties(store, trajectories, ["a", "b", "c"])
    of = [chances(store, one, groups, CORPUS) for one, groups in made]
    assert [each.of_group_G.tolist() for each in of] == [
        [0.25], pytest.approx((20 / counts).tolist()), [0.5, 0.2, 0.2],
    ]  # fmt: skip
    found = measure(store, trajectories, told_apart, of)
    assert law(found, 0).total_variation("loss") == pytest.approx(0, abs=1e-9)
    assert law(found, 1).subset["source"] == pytest.approx([1 / 3] * 3)
    chance = 20 / counts[source]
    assert pair(found, 0, 1).differ == pytest.approx(1 - np.minimum(0.25, chance).sum() / 60)
    assert pair(found, 1, 2).correlation == pytest.approx(
        np.corrcoef(chance, np.where(stratum == 0, 0.5, 0.2))[0, 1]
    )
