"""The sharded cut against a sort of everything, with ties, borders and bins of all sizes."""

import numpy as np
import pyarrow as pa
import pytest
from support.corpora import random_examples, write_corpus

from s2l_ray.config import SelectionConfig
from s2l_ray.selection import histogram as bins
from s2l_ray.selection import subset as gathering
from s2l_ray.selection.choose import choose
from s2l_ray.selection.cut import cut, keys
from s2l_ray.selection.histogram import Histogram, Order, num_bins
from s2l_ray.selection.quotas import even
from s2l_ray.selection.subset import ends_of
from s2l_ray.store.schemas import TOKENS

GROUPS = 5
LENGTHS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 7])  # tokens, by the last digit of an id


@pytest.fixture
def corpus(store):
    return write_corpus(store, random_examples(600), num_parts=4)


@pytest.fixture
def tokens(store, corpus):
    parts = []
    for part in corpus.parts:
        ids = store.read_part(corpus.folder, part)["example_id"].to_numpy()
        lengths = LENGTHS[ids % 10].tolist()
        table = pa.table({
            "example_id": ids, "input_ids": [[1] * n for n in lengths],
            "loss_mask": [[True] * n for n in lengths], "num_label_tokens": lengths,
            "truncated": [False] * len(ids),
        }).cast(TOKENS)  # fmt: skip
        stats = {"trainable": len(ids), "trainable_tokens": sum(lengths)}
        parts.append(store.write_part(table, "tokens/t", part.unit, stats=stats))
    return store.commit("tokens/t", "t", parts, {})


def clusters_of(store, corpus):
    """Clusters of unequal sizes, by the ids."""
    parts = []
    for part in corpus.parts:
        ids = store.read_part(corpus.folder, part)["example_id"].to_numpy()
        group = (ids // 10 % 16).clip(max=GROUPS - 1).astype(np.int32)
        table = pa.table({"example_id": ids, "cluster_id": group})
        parts.append(store.write_part(table, "clusters/t", part.unit, suffix="parquet"))
    return store.commit("clusters/t", "t", parts, {"sources": [None] * GROUPS})


def ranking_of(store, corpus, distinct):
    """A ranking whose scores take so few values that several bins share one."""
    parts, scores = [], []
    for part in corpus.parts:
        ids = store.read_part(corpus.folder, part)["example_id"].to_numpy()
        score = (ids // 7 % distinct).astype(np.float64) ** 2
        scores.append(score)
        table = pa.table({"example_id": ids, "group": np.zeros(len(ids), np.int32), "score": score})
        parts.append(store.write_part(table, "rankings/t", part.unit))
    edges = np.quantile(np.concatenate(scores), np.arange(1, 256) / 256).tolist()
    return store.commit("rankings/t", "t", parts, {"sources": [None], "edges": edges})


def read_groups(store, groups, seed):
    """Ids, groups and scores of all examples."""
    order = Order.of(groups, seed)
    read = [order.read(store, part) for part in groups.parts]
    return [np.concatenate(each) for each in zip(*read, strict=True)]


def read_subset(store, chosen):
    return pa.concat_tables([store.read_part(chosen.folder, part) for part in chosen.parts])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["clusters", "few scores", "one score"])
def test_a_subset_of_many_parts_is_the_sort_of_everything(
    local_ray, store, corpus, tokens, monkeypatch, kind, packed
):
    monkeypatch.setattr(bins, "SUBSET_ROWS", 7)
    if packed:  # all of the corpus in one task, which sends its rows part by part
        monkeypatch.setattr(gathering, "PIECES", 1)
        monkeypatch.setattr(gathering, "SENT_BYTES", 0)
    if kind == "clusters":
        monkeypatch.setattr(bins, "CELLS", 0)  # the fewest bins, so many cross borders
        groups, selector = clusters_of(store, corpus), "s2l"
        quotas = even(sizes_of(store, groups), 300)
    else:
        groups = ranking_of(store, corpus, 1 if kind == "one score" else 4)
        selector, quotas = "middle_perplexity", np.array([300])
    config = SelectionConfig(selector=selector, budget=300, seed=2)
    chosen = choose(store, config, corpus=corpus, tokens=tokens, groups=groups,
                    folder="selections/x", fingerprint="x")  # fmt: skip
    found, wanted = read_subset(store, chosen), cut(*read_groups(store, groups, 2), quotas, 2)
    assert [part.rows for part in chosen.parts] == [7] * 42 + [6]
    assert found["example_id"].to_pylist() == wanted.example_id.tolist()
    assert found["rank"].to_pylist() == list(range(300))
    places = [int(why.rpartition(" ")[2]) - 1 for why in found["reason"].to_pylist()]
    assert places == wanted.place.tolist()
    assert chosen.info["tokens"] == LENGTHS[wanted.example_id % 10].sum()


def sizes_of(store, groups):
    return bins.histogram_of(store, groups, GROUPS, Order.of(groups, 0)).sizes


@pytest.mark.parametrize("tokens_wanted", [1, 40, 777, 1500, 2300])
def test_a_budget_in_tokens_is_the_most_that_fits(
    local_ray, store, corpus, tokens, monkeypatch, tokens_wanted
):
    groups = clusters_of(store, corpus)
    sizes = sizes_of(store, groups)

    everything = read_groups(store, groups, 3)

    def needed(count):
        return LENGTHS[cut(*everything, even(sizes, count), 3).example_id % 10].sum()

    fitting = [count for count in range(601) if needed(count) <= tokens_wanted]
    config = SelectionConfig(selector="s2l", budget=f"{tokens_wanted} tokens", seed=3)
    how = {"corpus": corpus, "tokens": tokens, "groups": groups, "folder": "selections/t"}
    if not fitting[-1]:
        with pytest.raises(ValueError, match="smaller than the shortest candidate"):
            choose(store, config, **how, fingerprint="t")
        return
    chosen = choose(store, config, **how, fingerprint="t")
    assert chosen.info["examples"] == fitting[-1]
    assert chosen.info["tokens"] == needed(fitting[-1]) <= tokens_wanted


def test_bins_never_fall_along_the_order_and_split_scores_that_fill_several():
    ids, draw = np.arange(20_000), np.random.default_rng(0)
    score = draw.choice([0.0, 1.0, 1.5, 4.0], 20_000, p=[0.6, 0.2, 0.1, 0.1])
    edges = np.quantile(score, np.arange(1, 256) / 256)
    order = Order("", "group", edges, 1, 256)
    by_order = order.sorted(ids, np.zeros(len(ids), int), score)
    found = order.bins_of(ids, score)
    assert (np.diff(found[by_order]) >= 0).all()
    assert np.bincount(found).max() < 2 * 20_000 / 256
    by_key = Order("", None, None, 1, 1024)
    found = by_key.bins_of(ids, np.zeros(len(ids)))
    assert (np.diff(found[np.argsort(keys(ids, 1))]) >= 0).all()
    assert found.min() >= 0 and 1000 < found.max() < 1024


def test_ends_by_hand():
    # Ranks: places 0 of groups 0, 1, 2; places 1 of 0, 2; place 2 of 2.
    quotas = np.array([2, 1, 3])
    assert ends_of(quotas, np.arange(7)).tolist() == [
        [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1], [2, 1, 2], [2, 1, 3],
    ]  # fmt: skip


def test_bins_are_as_many_as_needed_and_allowed():
    assert num_bins(0) == num_bins(1_600_000) == 256
    assert num_bins(1_700_000) == 512
    assert num_bins(10**9, 100) == 262_144  # 16 a row of the last power
    assert num_bins(10**9, 100) * 100 <= bins.CELLS < num_bins(10**9, 1000) * 2000


def test_what_a_histogram_knows_by_hand():
    counts = np.array([[0, 2, 2, 5], [0, 0, 4, 4]])
    lengths = np.array([[0, 20, 20, 80], [0, 0, 7, 7]])
    histogram = Histogram(counts, lengths)
    assert histogram.sizes.tolist() == [5, 4]
    assert histogram.bins_at(np.array([2, 0])).tolist() == [2, 1]
    assert histogram.tokens_at(np.array([2, 0])) == (20, 20)
    assert histogram.tokens_at(np.array([3, 1])) == (20, 87)
    assert histogram.bins_at(np.array([5, 4])).tolist() == [3, 3]
    assert histogram.tokens_at(np.array([5, 4])) == (87, 87)
