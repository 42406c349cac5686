"""The order of an array of losses, without Ray: against quotas, and against a run's selection."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from sklearn.cluster import KMeans as SklearnKMeans
from support.corpora import example, write_corpus
from support.head import REPOSITORY, environment

import s2l_ray
from s2l_ray.clustering.clusters import cluster
from s2l_ray.config import ClustersConfig, SelectionConfig
from s2l_ray.selection.choose import choose
from s2l_ray.selection.points import falls
from s2l_ray.selection.quotas import even
from s2l_ray.selection.ranking import rank
from s2l_ray.store.schemas import TOKENS, trajectories

ROWS, POINTS = 700, 4


def losses_of(rows=ROWS, seed=0):
    random = np.random.default_rng(seed)
    level = random.gamma(2.0, size=(rows, 1))
    fall = np.cumsum(random.normal(0.2, 0.3, size=(rows, POINTS)), axis=1)
    return (level - fall).astype(np.float32)


def test_the_first_of_the_order_are_the_subset_of_every_budget():
    """Separate blobs, so that any k-means finds them: their quotas are known."""
    random = np.random.default_rng(1)
    sizes = np.array([5, 40, 15, 100])
    blobs = [random.normal(10.0 * n, 0.1, size=(size, 3)) for n, size in enumerate(sizes)]
    blob_N = np.repeat(np.arange(4), sizes)
    shuffle = random.permutation(len(blob_N))
    losses, blob_N = np.concatenate(blobs)[shuffle], blob_N[shuffle]
    order = s2l_ray.rank(losses, n_clusters=4)
    assert sorted(order) == list(range(160))
    for budget in (1, 3, 4, 17, 60, 61, 100, 159, 160):
        taken = np.bincount(blob_N[order[:budget]], minlength=4)
        wanted = even(sizes, budget)
        assert np.abs(taken - wanted).max() <= 1 and taken.sum() == budget
    again = s2l_ray.rank(losses, n_clusters=4)
    assert np.array_equal(order, again)
    other = s2l_ray.rank(losses, n_clusters=4, seed=1)
    assert not np.array_equal(order, other)


def test_clusters_are_as_good_as_scikit_learn_s():
    losses = losses_of()
    order = s2l_ray.rank(losses, n_clusters=12)
    found = SklearnKMeans(12, n_init=4, random_state=0).fit(losses)
    one, two = (
        np.bincount(found.labels_[rows], minlength=12)
        for rows in (order[:120], np.random.default_rng(0).permutation(ROWS)[:120])
    )
    assert one.std() < two.std()  # spread evenly over clusters, which a random draw is not


def test_random_and_strata():
    losses = losses_of()
    order = s2l_ray.rank(losses, method="random", seed=3)
    assert sorted(order) == list(range(ROWS))
    assert np.array_equal(order, s2l_ray.rank(losses + 1, method="random", seed=3))
    strata = s2l_ray.rank(losses, method="loss_strata", n_clusters=7)
    rank_N = np.argsort(np.argsort(losses.astype(np.float64).mean(axis=1)))
    assert sorted(rank_N[strata[:7]] * 7 // ROWS) == list(range(7))
    assert np.bincount(rank_N[strata[:350]] * 7 // ROWS).tolist() == [50] * 7


def test_ids_decide_the_draw_and_not_the_order_of_the_rows():
    losses = losses_of()
    ids = np.random.default_rng(2).integers(0, 2**63 - 1, ROWS)
    order = s2l_ray.rank(losses, n_clusters=9, ids=ids)
    shuffle = np.random.default_rng(4).permutation(ROWS)
    again = s2l_ray.rank(losses[shuffle], n_clusters=9, ids=ids[shuffle])
    assert np.array_equal(ids[order], ids[shuffle][again])


@pytest.mark.parametrize(
    "losses, more, why",
    [
        (np.zeros(3), {}, r"losses: found shape \(3,\), expected \[N, T\]"),
        (np.zeros((0, 3)), {}, r"losses: found shape \(0, 3\)"),
        (np.array([[1.0, 2], [np.nan, 1]]), {}, "losses: 1 of 2 rows have NaN or inf, the first is "
         "row 1; leave them out"),
        (np.zeros((3, 2)), {"n_clusters": 5}, "n_clusters: 5, but there are 3 examples"),
        (np.zeros((9, 2)), {"n_clusters": 5}, "found 1 distinct rows among 9"),
        (np.zeros((3, 2)), {"method": "s3l"}, "method: found 's3l', expected one of s2l, "),
        (np.zeros((3, 2)), {"ids": [1, 2]}, r"ids: found shape \(2,\)"),
        (np.zeros((3, 2)), {"ids": [1, 2, 2]}, "ids: some are equal"),
    ],
)  # fmt: skip
def test_what_cannot_be_ranked_is_refused(losses, more, why):
    with pytest.raises(ValueError, match=f"^{why}"):
        s2l_ray.rank(losses, **more)


def test_ranking_starts_and_imports_no_ray():
    code = """
import sys, numpy, s2l_ray
order = s2l_ray.rank(numpy.random.default_rng(0).random((300, 4)), n_clusters=5)
assert len(order) == 300
assert not {"ray", "torch", "boto3"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment(), timeout=60, check=True
    )


@pytest.mark.parametrize("method", ["s2l", "prune_then_cluster", "loss_strata", "random"])
def test_a_run_chooses_the_first_of_the_order(local_ray, store, method):
    corpus = write_corpus(store, [example(f"q{n}", f"a{n}") for n in range(ROWS)], num_parts=3)
    schema, parts, tokens, ids, all_losses = trajectories(POINTS), [], [], [], losses_of()
    first = 0
    for part in corpus.parts:
        mine = store.read_part(corpus.folder, part, ["example_id", "source"])
        rows = mine.num_rows
        losses = all_losses[first : first + rows]
        first += rows
        values = pa.FixedSizeListArray.from_arrays(pa.array(losses.reshape(-1)), POINTS)
        counts = pa.array([1] * rows, pa.int32())
        columns = [mine["example_id"], mine["source"], values, counts]
        table = pa.Table.from_arrays(columns, schema=schema)
        parts.append(store.write_part(table, "trajectories/t", part.unit))
        texts = [
            {"example_id": each, "input_ids": [1, 2], "loss_mask": [False, True],
             "num_label_tokens": 1, "truncated": False}
            for each in mine["example_id"].to_pylist()
        ]  # fmt: skip
        stats = {"trainable": rows, "trainable_tokens": 2 * rows}
        table = pa.Table.from_pylist(texts, schema=TOKENS)
        tokens.append(store.write_part(table, "tokens/t", part.unit, stats=stats))
        ids += mine["example_id"].to_pylist()
    given = store.commit("trajectories/t", "t", parts, {"steps": list(range(POINTS))})
    if method == "s2l":
        rows = given
    if method == "prune_then_cluster":
        rows = falls(store, given, folder="falls/t", fingerprint="t")
    where = {"folder": f"groups/{method}", "fingerprint": "t"}
    if method in ("s2l", "prune_then_cluster"):
        config = ClustersConfig(n_clusters=9, random_state=7, stability=False)
        groups = cluster(store, rows, config, by_source=False, **where)
    elif method == "loss_strata":
        groups = rank(store, given, selector=method, n_strata=9, beside={}, **where)
    else:
        groups = given
    config = SelectionConfig(selector=method, budget=60, seed=5)
    subset = choose(
        store, config, corpus=corpus, groups=groups, folder="selections/t", fingerprint="t",
        tokens=store.commit("tokens/t", "t", tokens, {}),
    )  # fmt: skip
    table = store.read_part(subset.folder, subset.parts[0])
    order = s2l_ray.rank(all_losses, method=method, n_clusters=9, random_state=7, seed=5, ids=ids)
    assert np.array(ids)[order[:60]].tolist() == table["example_id"].to_pylist()
