"""The theorem on a target: against naive gradients, and stopped and started again.

N examples, P weights.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.gradients import CHECKPOINT, naive_gradients, stages
from support.models import small_model

from s2l_ray.analysis import gradient_parts
from s2l_ray.analysis.gradient_measures import sentences, similarity
from s2l_ray.analysis.gradients import Sketches
from s2l_ray.analysis.theorem import Subset, theorem, weighted
from s2l_ray.config import WorkersConfig
from s2l_ray.store import Manifest, Store


def write_selection(store, ids, cluster_id, name="t"):
    table = pa.table({"example_id": ids, "cluster_id": pa.array(cluster_id, pa.int32())})
    part = store.write_part(table, f"selections/{name}", "subset/part-00000", suffix="parquet")
    return store.commit(f"selections/{name}", name, [part], {})


def test_weights_are_the_sizes_of_clusters_over_what_was_chosen_of_them(store):
    selection = write_selection(store, [7, 3, 9, 5], [0, 2, 2, 2])
    clusters = Manifest("clusters/t", "t", [], {"sizes": [40, 10, 6]})
    found = weighted(store, Subset(selection, clusters))
    assert found.example_id.tolist() == [7, 3, 9, 5]
    assert found.weight.tolist() == [40, 2, 2, 2]
    assert weighted(store, Subset(selection)).weight.tolist() == [1, 1, 1, 1]
    # Those that a selection trains with, if it has any.
    table = pa.table({"example_id": [7, 3], "weight": pa.array([40.0, 2.5], pa.float32())})
    part = store.write_part(table, "selections/n", "subset/part-00000", suffix="parquet")
    own = store.commit("selections/n", "n", [part], {"weights": [40.0, 0.0, 2.5]})
    assert weighted(store, Subset(own, clusters)).weight.tolist() == [40, 2.5]
    assert weighted(store, Subset(own)).weight.tolist() == [1, 1]


def measure(store, tokens, clusters, subsets, **changes):
    how = {"examples": 99, "workers": WorkersConfig(), "made_of": "checksum"} | changes
    return theorem(store, CHECKPOINT, tokens, clusters, subsets, **how)


def test_the_theorem_on_a_target(local_ray, store, tmp_path):
    table, tokens, clusters = stages(store, tmp_path)
    exact_NP = naive_gradients(table, small_model("llama"))
    ids = table.filter(pa.compute.greater(table["num_label_tokens"], 0))["example_id"].to_numpy()
    sizes = np.bincount(ids % 4, minlength=4)
    few = np.array([0, 1, 2, 3, 6, 9])
    clusters = Manifest(clusters.folder, "t", clusters.parts, {"sizes": sizes.tolist()})
    selection = write_selection(store, ids[few], ids[few] % 4)
    other = write_selection(store, ids[few + 1], ids[few + 1] % 4, "other")
    subsets = {"s2l": [Subset(selection, clusters)] * 2,  # equal ones count once
               "plain": [Subset(selection), Subset(other)]}  # fmt: skip
    rows = measure(store, tokens, clusters, subsets)
    assert [(row["measure"], row["of"]) for row in rows] == [
        ("pairs", "clusters"), ("pairs", "random groups"),
        *[("mean gradient", name) for name in ("s2l", "plain", "s2l")],
    ]  # fmt: skip
    share_K = sizes / np.bincount(ids[few] % 4, minlength=4)
    weights = share_K[ids[few] % 4]
    corpus_P = exact_NP.mean(0)
    spread = exact_NP.var(axis=0, ddof=1).sum()
    first_P, other_P = exact_NP[few].mean(0), exact_NP[few + 1].mean(0)
    weighted_P = weights @ exact_NP[few] / weights.sum()
    for row, means in zip(rows[2:], [[first_P], [first_P, other_P], [weighted_P]], strict=True):
        apart = [np.linalg.norm(mean_P - corpus_P) for mean_P in means]
        distances = np.array(apart) / np.linalg.norm(corpus_P)
        assert row["distance"] == pytest.approx(distances.mean(), rel=1e-4)
        if len(means) == 1:
            assert row["distance_error"] is None
        else:
            error = distances.std(ddof=1) / np.sqrt(2)
            assert row["distance_error"] == pytest.approx(error, rel=1e-3)
        uniform = np.sqrt((1 / 6 - 1 / len(ids)) * spread) / np.linalg.norm(corpus_P)
        assert row["uniform"] == pytest.approx(uniform, rel=1e-4)
    assert [(row["weighted"], row["draws"]) for row in rows[2:]] == [
        (False, 1), (False, 2), (True, 1)
    ]  # fmt: skip
    # Of sketches: near the pairs of the gradients themselves.
    norm_N = np.linalg.norm(exact_NP, axis=1)
    sample = Sketches(ids % 4, np.ones(len(ids)), norm_N, exact_NP)
    whole, _ = similarity(sample)
    assert rows[0]["cosine"] == pytest.approx(whole["cosine"], abs=0.02)
    assert rows[0]["pairs"] == whole["pairs"]
    assert len(sentences(rows)) == 3


def files_of(store):
    """Part files of gradients -> when each was written."""
    root = Path(store.address("diagnostics"))
    return {str(f.relative_to(root)): f.stat().st_mtime_ns for f in root.rglob("*.arrow")}


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on_to_the_same_bits(
    local_ray, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(gradient_parts, "WINDOW_ROWS", 6)
    monkeypatch.setattr(gradient_parts, "SKETCHES", 5)
    _, tokens, clusters = stages(store, tmp_path)
    clusters = Manifest(clusters.folder, "t", clusters.parts, {"sizes": [7, 8, 8, 6]})
    ids = store.read_part(clusters.folder, clusters.parts[0])["example_id"].to_numpy()[:8]
    subsets = {"s2l": [Subset(write_selection(store, ids, ids % 4), clusters)]}

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Store, "commit", stop)  # when everything is made, and nothing combined
        measure(store, tokens, clusters, subsets)
    made = files_of(store)
    assert sum("/sketches/" in name for name in made) == 4 + 1 + 3
    assert sum("/sums/" in name for name in made) == 3 + 1 + 2 + 2 + 2
    root = Path(store.address("diagnostics"))
    gone, cut, *_ = sorted(made)
    *_, gone_sum = sorted(made)
    for name in (gone, gone_sum):
        os.unlink(root / name)
    (root / cut).write_bytes((root / cut).read_bytes()[:-20])

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Store, "commit", stop)
        measure(store, tokens, clusters, subsets, workers=WorkersConfig(num_workers=2))
    again = files_of(store)
    assert again.keys() == made.keys()  # names carry checksums: the same bits
    changed = {name for name in made if again[name] != made[name]}
    assert changed == {gone, gone_sum, cut}

    rows = measure(store, tokens, clusters, subsets)
    assert files_of(store) == {}  # sums are large, and not needed any more
    whole = Store(tmp_path / "whole")
    shutil.copytree(store.uri, whole.uri, ignore=shutil.ignore_patterns("diagnostics"))
    assert measure(whole, tokens, clusters, subsets) == rows

    shutil.rmtree(store.address(CHECKPOINT))  # what is committed needs no model
    assert measure(store, tokens, clusters, subsets) == rows
    with pytest.raises(ValueError, match="checkpoint-000010"):  # other weights: measured again
        measure(store, tokens, clusters, subsets, made_of="other")
