"""Samples of a run: which examples of a cluster are shown, with which text, and their lengths."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pytest

from s2l_ray.report import samples
from s2l_ray.report.data import Piece
from s2l_ray.store import Manifest


class Letters:
    """A tokenizer of letters: 1 is a, 2 is b."""

    def decode(self, tokens):
        return "".join(chr(96 + token) for token in tokens)


@pytest.fixture
def run(store, monkeypatch):
    """Two parts of four examples with ids 0 to 7; 0 to 5 in cluster 0, 6 and 7 in cluster 1."""
    ids = [range(4), range(4, 8)]

    def manifest(stage, suffix, **columns):
        parts = [
            store.write_part(
                pa.table({name: [value(i) for i in mine] for name, value in columns.items()}),
                stage, f"part-{number}", suffix=suffix,
            )
            for number, mine in enumerate(ids)
        ]  # fmt: skip
        return Manifest(stage, "x", parts, {"sizes": [6, 2], "tokenizer": "t"})

    def same(i):
        return i

    losses = pa.list_(pa.float32(), 2)
    done = {
        "corpus": manifest("corpus", "parquet", example_id=same, source=lambda i: f"s{i}",
                           file=lambda i: "f", row=lambda i: 10 + i),
        "tokens": manifest("tokens", "arrow", example_id=same,
                           input_ids=lambda i: [1] * (i + 1) + [2],
                           loss_mask=lambda i: [False] * (i + 1) + [True]),
    }  # fmt: skip
    parts = [
        store.write_part(
            pa.table({"example_id": list(mine),
                      "losses": pa.array([[i + 0.5, float(i)] for i in mine], losses)}),
            "trajectories", f"part-{number}", suffix="arrow",
        )
        for number, mine in enumerate(ids)
    ]  # fmt: skip
    done["trajectories"] = Manifest("trajectories", "x", parts, {})
    clusters = manifest(
        "clusters", "parquet", example_id=same, cluster_id=lambda i: 0 if i < 6 else 1
    )
    monkeypatch.setattr(samples, "load_tokenizer", lambda store, folder: Letters())
    report = SimpleNamespace(examples_per_cluster=4)
    plan = SimpleNamespace(seen_by=lambda choice: SimpleNamespace(name="trajectories"))
    config = SimpleNamespace(report=report, selection=None)
    return SimpleNamespace(store=store, done=done, clusters=clusters, config=config, plan=plan)


def subset(run, *ids):
    """A selection of these ids, in two parts, in rank order."""
    half = len(ids) // 2
    parts = [
        run.store.write_part(pa.table({"example_id": pa.array(mine, pa.int64())}),
                             "selections", f"subset/part-{number}", suffix="parquet")
        for number, mine in enumerate((ids[:half], ids[half:]))
    ]  # fmt: skip
    return Manifest("selections", "x", parts, {})


def ids_of(examples):
    return [(int(example.source[1:]), example.chosen) for example in examples]


def test_half_of_the_examples_of_a_cluster_are_chosen_ones(run):
    first, second = samples.examples_of_clusters(run, run.clusters, subset(run, 5, 3, 2, 7))
    # Cluster 0: two chosen and two others, the first by id; cluster 1 has one of each.
    assert ids_of(first) == [(2, True), (3, True), (0, False), (1, False)]
    assert ids_of(second) == [(7, True), (6, False)]


def test_what_one_kind_lacks_the_other_fills_up(run):
    first, _ = samples.examples_of_clusters(run, run.clusters, subset(run, 0, 1, 2, 3, 4))
    assert ids_of(first) == [(0, True), (1, True), (2, True), (5, False)]
    first, second = samples.examples_of_clusters(run, run.clusters, subset(run, 4))
    assert ids_of(first) == [(4, True), (0, False), (1, False), (2, False)]
    assert ids_of(second) == [(6, False), (7, False)]


def test_an_example_has_its_place_losses_and_marked_text(run):
    [example, *_], _ = samples.examples_of_clusters(run, run.clusters, subset(run, 5))
    assert (example.place, example.source) == ("f:15", "s5")
    assert (example.loss_first, example.loss_last) == (5.5, 5.0)
    assert example.pieces == [Piece("aaaaaa", False), Piece("b", True)]


def test_lengths_of_corpus_and_subset(run):
    edges, of_corpus, of_subset = samples.lengths(run, subset(run, 7, 0))
    assert edges[0] == 0 and edges[-1] == 10 and len(edges) == 41  # the longest has 9 tokens
    assert sum(of_corpus) == 8 and sum(of_subset) == 2
    # 2 tokens (id 0) lie in the bin from 2 to 2.25, 9 (id 7) in that from 9.
    assert [at for at, count in enumerate(of_subset) if count] == [8, 36]


def test_labels_are_cut_where_they_begin_and_end():
    assert samples.pieces_of(Letters(), [1, 2, 3, 4], [False, True, True, False]) == [
        Piece("a", False), Piece("bc", True), Piece("d", False),
    ]  # fmt: skip
    assert samples.pieces_of(Letters(), [], []) == []
