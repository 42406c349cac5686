"""Gradients against the model's own loss and autograd, one example at a time.

N examples, P weights, D width of a sketch.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from support.gradients import CHECKPOINT, labelled, naive_gradients, stages
from support.models import random_tokens, small_model

from s2l_ray.analysis import gradient_parts
from s2l_ray.analysis.backward import sketched, summed
from s2l_ray.analysis.gradient_parts import Weighted, draw_sample
from s2l_ray.analysis.gradients import compute_gradients
from s2l_ray.config import WorkersConfig
from s2l_ray.models.batch import examples_of
from s2l_ray.models.loss import LabelLoss


def near(found, expected):
    return np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["gpt_neox", "llama", "gemma2"])  # the last with tied weights
def test_sums_are_those_of_a_naive_loop_for_any_batches(kind):
    tokens, model = labelled(random_tokens(20)), small_model(kind)
    weights_N = np.random.default_rng(1).random(tokens.num_rows) * 3
    expected_P = weights_N @ naive_gradients(tokens, model)
    for tokens_per_batch in (1, 100, 1 << 20):
        found_P = summed(
            LabelLoss(model), examples_of(tokens), weights_N, tokens_per_batch=tokens_per_batch
        )
        assert found_P.dtype == np.float32
        assert near(found_P, expected_P)


def test_sketches_keep_inner_products_up_to_the_stated_error():
    tokens, model = labelled(random_tokens(5, seed=3)), small_model("llama")
    exact_NP = naive_gradients(tokens, model)
    products_NN = exact_NP @ exact_NP.T
    squares_N = np.diag(products_NN)
    width, errors = 128, []
    both = np.outer(squares_N, squares_N) + products_NN**2
    deviation_NN = np.sqrt((both - 2 * exact_NP**2 @ (exact_NP**2).T) / width)
    above = np.triu_indices(len(exact_NP), 1)
    for seed in range(50):
        norm_N, sketch_ND = sketched(LabelLoss(model), examples_of(tokens), seed=seed, width=width)
        np.testing.assert_allclose(norm_N, np.sqrt(squares_N), rtol=1e-5)
        errors.append(((sketch_ND @ sketch_ND.T - products_NN) / deviation_NN)[above])
    errors = np.array(errors)  # in standard deviations: of mean 0, of mean square 1
    assert np.abs(errors.mean(axis=0)).max() < 4.5 / np.sqrt(50)
    assert 0.7 < (errors**2).mean() < 1.4
    _, again_ND = sketched(LabelLoss(model), examples_of(tokens), seed=49, width=width)
    assert (again_ND == sketch_ND).all()


def test_weights_that_are_frozen_have_no_gradient():
    tokens, model = labelled(random_tokens(3, seed=3)), small_model("llama")
    exact_NP = naive_gradients(tokens, model)
    frozen = model.get_input_embeddings().weight
    place = next(i for i, weights in enumerate(model.parameters()) if weights is frozen)
    first = sum(weights.numel() for weights in list(model.parameters())[:place])
    exact_NP = np.delete(exact_NP, slice(first, first + frozen.numel()), axis=1)
    frozen.requires_grad_(False)
    norm_N, _ = sketched(LabelLoss(model), examples_of(tokens), seed=0)
    np.testing.assert_allclose(norm_N, np.linalg.norm(exact_NP, axis=1), rtol=1e-5)
    assert near(summed(LabelLoss(model), examples_of(tokens), np.ones(3), tokens_per_batch=100),
                exact_NP.sum(axis=0))  # fmt: skip


@pytest.mark.slow
def test_means_and_sketches_are_exact_for_any_number_of_workers(
    local_ray, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(gradient_parts, "WINDOW_ROWS", 6)
    monkeypatch.setattr(gradient_parts, "SKETCHES", 5)
    table, tokens, clusters = stages(store, tmp_path)
    exact_NP = naive_gradients(table, small_model("llama"))
    ids = labelled(table)["example_id"].to_numpy()
    order = np.random.default_rng(0).permutation(len(ids))
    few, heavy = order[:5], order[3:12]
    weights = np.linspace(0.5, 4, len(heavy))
    without_label = table["example_id"].to_numpy()[[4]]  # is no part of a mean
    sets = {
        "few": Weighted(np.append(ids[few], without_label), np.ones(6)),
        "heavy": Weighted(ids[heavy], weights),
    }
    expected = [
        exact_NP.mean(0), exact_NP[few].mean(0), weights @ exact_NP[heavy] / weights.sum(),
    ]  # fmt: skip
    before = None
    for num_workers in (1, 3):
        how = {"examples": 1000, "seed": 1, "workers": WorkersConfig(num_workers=num_workers)}
        sample, corpus, means = compute_gradients(
            store, CHECKPOINT, tokens, clusters, sets, folder=f"gradients/{num_workers}", **how
        )
        found = dict(means)
        assert list(found) == ["few", "heavy"]
        found = [corpus, *found.values()]
        assert [mean.examples for mean in found] == [len(ids), 5, 9]
        for mean, wanted in zip(found, expected, strict=True):
            assert mean.gradient.dtype == np.float64
            assert near(mean.gradient, wanted)
        np.testing.assert_allclose(sample.norm, np.linalg.norm(exact_NP, axis=1), rtol=1e-5)
        assert sample.sketch.shape == (len(ids), 4096)
        assert sample.cluster_id.tolist() == [i % 4 for i in ids]  # the sample is all of them
        assert (sample.weight == 1).all()
        now = [mean.gradient for mean in found] + [*sample]
        if before is not None:
            assert all((a == b).all() for a, b in zip(before, now, strict=True))
        before = now

    how |= {"folder": "gradients/bad"}
    with pytest.raises(ValueError, match="x: none of its examples has a label token in tokens/t"):
        none = {"x": Weighted(without_label, np.ones(1))}
        compute_gradients(store, CHECKPOINT, tokens, clusters, none, **how)
    part = dataclasses.replace(tokens.parts[0], unit="part-00002")
    swapped = dataclasses.replace(tokens, parts=[*tokens.parts[:2], part])
    with pytest.raises(ValueError, match=r"example_id 20\d\d is in the clusters, but not here"):
        compute_gradients(store, CHECKPOINT, swapped, clusters, sets, **how)


def test_windows_hold_every_example_of_a_set_once(local_ray, store, tmp_path, monkeypatch):
    """Parts of 16, 1 and 12 examples with a label: the corpus is cut at parts, sets are not."""
    monkeypatch.setattr(gradient_parts, "WINDOW_ROWS", 6)
    table, tokens, _ = stages(store, tmp_path)
    ids = labelled(table)["example_id"].to_numpy()
    sets = [Weighted(ids[each], np.ones(len(ids[each]))) for each in (slice(15, 19), slice(9, 23))]
    found = gradient_parts.windows(store, tokens, sets)
    cut = [(window.set_index, [each[1:] for each in window.slices]) for window in found]
    assert cut == [
        (None, [(0, 6)]), (None, [(6, 6)]), (None, [(12, 4)]),
        (None, [(0, 1)]),
        (None, [(0, 6)]), (None, [(6, 6)]),
        (0, [(0, 1), (0, 1), (0, 2)]),
        (1, [(0, 6)]), (1, [(6, 1), (0, 1), (0, 4)]), (1, [(4, 2)]),
    ]  # fmt: skip
    last = [[each.part.unit[-1] for each in window.slices] for window in found[-4:]]
    assert last == [["0", "1", "2"], ["0"], ["0", "1", "2"], ["2"]]


def test_the_sample_is_in_proportion_and_has_two_of_each_cluster(store):
    sizes = [600, 300, 97, 2, 1]
    cluster_id = np.random.default_rng(0).permutation(np.repeat(np.arange(5), sizes))
    parts = [
        store.write_part(
            pa.table({"example_id": np.arange(first, first + 500),
                      "cluster_id": pa.array(cluster_id[first : first + 500], pa.int32())}),
            "clusters/t",
            f"part-{number:05d}",
            suffix="parquet",
        )
        for number, first in enumerate((0, 500))
    ]  # fmt: skip
    clusters = store.commit("clusters/t", "t", parts, {})
    unit, ids, group, weight = draw_sample(store, clusters, 100, seed=3)
    assert np.bincount(group).tolist() == [60, 30, 10, 2]
    assert len(set(ids.tolist())) == 102
    assert (cluster_id[ids] == group).all()
    assert [name == f"part-{i // 500:05d}" for name, i in zip(unit, ids, strict=True)]
    for k, size in enumerate(sizes[:4]):
        assert weight[group == k].sum() == pytest.approx(size)
    other = draw_sample(store, clusters, 100, seed=4).example_id
    assert len(set(other.tolist()) & set(ids.tolist())) < 40

    alone = pa.table({"example_id": [1, 2], "cluster_id": pa.array([0, 1], pa.int32())})
    part = store.write_part(alone, "clusters/a", "part-00000", suffix="parquet")
    with pytest.raises(ValueError, match="clusters/a: no cluster has two examples"):
        draw_sample(store, store.commit("clusters/a", "a", [part], {}), 100, seed=3)
