"""Agreement, overlap and purity against scikit-learn, sets, enumeration and hand-made cases."""

import json
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import adjusted_rand_score

from s2l_ray.analysis import stability
from s2l_ray.analysis.stability import (
    adjusted_rand,
    agreement,
    jaccard_by_chance,
    overlap,
    purities,
    purity,
    random_groups,
    share_in,
    topics_by_cluster,
    topics_of,
)

N, PARTS = 200, 3


def stage(store, name, ids, columns, parts=PARTS, **info):
    """A committed stage of these rows; part p has the ids of the p-th third of the corpus."""
    written = []
    for number in range(parts):
        mine = ids * parts // N == number
        table = pa.table({"example_id": ids[mine]} | {n: c[mine] for n, c in columns.items()})
        written.append(store.write_part(table, name, f"part-{number:05d}"))
    return store.commit(name, name, written, info)


def groups(store, name, labels, ids=None, column="cluster_id", count=None):
    ids = np.arange(N) if ids is None else ids
    count = count or int(labels.max()) + 1
    return stage(store, name, ids, {column: labels.astype(np.int32)}, sources=[None] * count)


@pytest.mark.parametrize("clusters", [(1, 1), (1, 7), (7, 7), (3, 50), (200, 200), (200, 1)])
def test_adjusted_rand_is_scikit_learns(clusters):
    random = np.random.default_rng(sum(clusters))
    one, other = (
        random.permutation(N) if count == N else random.integers(count, size=N)
        for count in clusters
    )
    other = np.where(random.random(N) < 0.5, other, one % clusters[1])  # alike in part
    counts = np.zeros(clusters, np.int64)
    np.add.at(counts, (one, other), 1)
    assert adjusted_rand(counts) == pytest.approx(adjusted_rand_score(one, other), abs=1e-12)
    same = np.diag(counts.sum(axis=1))
    assert adjusted_rand(same) == 1


def test_adjusted_rand_of_more_pairs_than_a_float_counts():
    counts = np.array([[5, 1], [2, 4]]) * 10**8
    # Of so many examples C(n, 2) is n^2 / 2.
    squares = [(each.astype(float) ** 2).sum() for each in (counts, counts.sum(1), counts.sum(0))]
    by_chance = squares[1] * squares[2] / float(counts.sum()) ** 2
    wanted = (squares[0] - by_chance) / ((squares[1] + squares[2]) / 2 - by_chance)
    assert adjusted_rand(counts) == pytest.approx(wanted, rel=1e-8)


def test_agreement_is_over_the_examples_that_both_have(local_ray, store):
    random = np.random.default_rng(0)
    one, other = random.integers(5, size=N), random.integers(9, size=N)
    other = np.where(random.random(N) < 0.5, other, one)
    has_one, has_other = random.random(N) < 0.8, random.random(N) < 0.7
    made = groups(store, "one", one[has_one], np.flatnonzero(has_one))
    strata = groups(store, "other", other[has_other], np.flatnonzero(has_other), "group")
    both = has_one & has_other
    wanted = adjusted_rand_score(one[both], other[both])
    assert 0.05 < wanted < 0.6
    assert agreement(store, made, strata) == pytest.approx(wanted)
    assert agreement(store, strata, made) == pytest.approx(wanted)
    assert agreement(store, made, made) == 1


def test_partitions_that_do_not_meet(local_ray, store):
    zeros = np.zeros(N // 2, int)
    even, odd = (
        groups(store, name, zeros, np.arange(first, N, 2)) for first, name in enumerate("ab")
    )
    with pytest.raises(ValueError, match=r"/a and .*/b: no example in common"):
        agreement(store, even, odd)
    ids = np.arange(N)
    other = stage(store, "c", ids, {"cluster_id": ids}, parts=2, sources=[None] * N)
    with pytest.raises(ValueError, match="different corpora"):
        agreement(store, even, other)


def test_overlap_is_that_of_the_sets(local_ray, store):
    random = np.random.default_rng(1)
    subsets = [random.permutation(N)[:size] for size in (60, 40)]
    one, other = (
        stage(store, name, ids, {}, candidates=N) for name, ids in zip("ab", subsets, strict=True)
    )
    found = overlap(store, one, other)
    a, b = map(set, subsets)
    assert found.jaccard == pytest.approx(len(a & b) / len(a | b))
    assert (found.by_chance, found.spread) == jaccard_by_chance(60, 40, N)
    assert overlap(store, one, one).jaccard == 1
    assert share_in(store, one, other) == pytest.approx(len(a & b) / 60)
    assert share_in(store, other, one) == pytest.approx(len(a & b) / 40)


@pytest.mark.parametrize("sizes", [(2, 3), (5, 4), (1, 1), (6, 2), (6, 6)])
def test_chance_is_the_mean_over_all_pairs_of_subsets(sizes):
    one, other = ([set(each) for each in combinations(range(6), size)] for size in sizes)
    found = [len(a & b) / len(a | b) for a in one for b in other]
    mean, spread = jaccard_by_chance(*sizes, 6)
    assert mean == pytest.approx(np.mean(found))
    assert spread == pytest.approx(np.std(found), abs=1e-9)


def test_chance_among_many_examples():
    mean, spread = jaccard_by_chance(1_100_000, 1_100_000, 10_000_000)
    share = 0.11
    assert mean == pytest.approx(share**2 / (2 * share - share**2), rel=1e-5)
    # By the delta method: the derivative of x / (2b - x), times the count's deviation.
    count = np.sqrt(1e7) * share * (1 - share)
    assert spread == pytest.approx(2 * 1.1e6 * count / (2.2e6 - 1.21e5) ** 2, rel=1e-3)


def test_purity_by_hand():
    found = purity(np.array([[8, 2, 0], [0, 0, 0], [10, 10, 10], [0, 0, 60]]))
    assert found.shares_K.tolist() == [0.8, 1 / 3, 1]
    assert found.sizes_K.tolist() == [10, 30, 60]
    assert found.mean == pytest.approx((8 + 10 + 60) / 100)
    # By examples: 30 of them at 1/3, 10 at 0.8, 60 at 1.
    assert found.quantiles == [1 / 3, 1 / 3, 1, 1, 1]


def test_purities_beside_random_groups():
    tables = {"trajectories": np.array([[8, 2], [1, 4]]), "features": np.array([[9, 0], [0, 6]])}
    found = json.loads(json.dumps(purities(tables, seed=0)))
    assert list(found) == ["largest", "trajectories", "features", "random"]
    assert found["largest"] == 9 / 15
    assert found["trajectories"]["shares_K"] == [0.8, 0.8] and found["features"]["mean"] == 1
    random = purity(random_groups(tables["trajectories"], 0))
    assert found["random"]["mean"] == random.mean
    assert found["random"]["sizes_K"] == [10] * 500 + [5] * 500


def test_random_groups_have_the_sizes_and_the_topics_of_chance():
    counts = np.array([[2, 0], [0, 2]])
    drawn = random_groups(counts, seed=0)
    assert drawn.shape == (1000, 2) and (drawn.sum(axis=1) == 2).all() and (drawn <= 2).all()
    # Of the 6 pairs that two and two make, 2 are of one kind.
    pure = (drawn.max(axis=1) == 2).mean()
    assert abs(pure - 1 / 3) < 5 * np.sqrt(2 / 9 / 1000)
    sizes = random_groups(np.array([[30, 1, 4], [3, 9, 0], [0, 0, 0]]), seed=1).sum(axis=1)
    assert sizes.tolist() == [35] * 334 + [12] * 334 + [0] * 334


def test_topics_are_counted_as_in_a_loop(local_ray, store):
    random = np.random.default_rng(2)
    labels, topics = random.integers(6, size=N), random.choice(["b", "a", "c"], size=N)
    losses = stage(store, "t", np.arange(N), {"source": topics})
    some = random.random(N) < 0.6  # clusters of a part of them
    clusters = groups(store, "c", labels[some], np.flatnonzero(some), count=7)
    names = topics_of(store, losses, "source")
    assert names == ["a", "b", "c"]
    counts = topics_by_cluster(store, clusters, losses, "source", names)
    wanted = np.zeros((7, 3), int)
    for label, topic, is_there in zip(labels, topics, some, strict=True):
        wanted[label, names.index(topic)] += is_there
    assert (counts == wanted).all()
    other = np.where(topics == "b", None, topics)  # examples without a topic do not count
    labelled = stage(store, "l", np.arange(N), {"topic": other})
    names = topics_of(store, labelled, "topic")
    counts = topics_by_cluster(store, clusters, labelled, "topic", names)
    assert names == ["a", "c"] and (counts == wanted[:, [0, 2]]).all()
    less = stage(store, "less", np.arange(0, N, 2), {"source": topics[::2]})
    with pytest.raises(ValueError, match=r"/c/part-(\d+).* are not in .*/less/part-\1"):
        topics_by_cluster(store, clusters, less, "source", ["a", "b", "c"])


def test_topics_are_not_read_on_beyond_the_limit(store, monkeypatch):
    read = []

    def parts_read(function, parts, *args):
        for part in parts:
            read.append(function(part, *args))
            yield read[-1]

    monkeypatch.setattr(stability, "fold_parts", parts_read)
    topics = np.arange(N).astype(str)
    found = stage(store, "t", np.arange(N), {"topic": topics})
    assert topics_of(store, found, "topic") == sorted(topics)
    assert [len(each) for each in read] == [67, 67, 66]
    read.clear()
    monkeypatch.setattr(stability, "MAX_TOPICS", 70)
    with pytest.raises(ValueError, match=r"columns\.topic: expected at most 70 topics, found more"):
        topics_of(store, found, "topic")
    assert [len(each) for each in read] == [67, 67]
    read.clear()
    monkeypatch.setattr(stability, "MAX_TOPICS", 5)
    with pytest.raises(ValueError, match=r"such as '0'; name a column of fewer"):
        topics_of(store, found, "topic")
    assert [len(each) for each in read] == [6]
