"""Gradients against the model's own loss and autograd, an example at a time; any number of workers.

N examples, P weights, D width of a sketch.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from support.gradients import CHECKPOINT, labelled, naive_gradients, stages
from support.models import random_tokens, small_model

from s2l_ray.analysis import gradients
from s2l_ray.analysis.backward import sketched, summed
from s2l_ray.analysis.gradients import Weighted, mean_gradients, sketch
from s2l_ray.config import WorkersConfig
from s2l_ray.models.batch import examples_of
from s2l_ray.models.loss import LabelLoss


def near(found, expected):
    return np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["gpt_neox", "llama", "gemma2"])  # the last with tied weights
def test_sums_are_those_of_a_naive_loop_whatever_the_batches(kind):
    tokens, model = labelled(random_tokens(20)), small_model(kind)
    weights_N = np.random.default_rng(1).random(tokens.num_rows) * 3
    expected_P = weights_N @ naive_gradients(tokens, model)
    for tokens_per_batch in (1, 100, 1 << 20):
        found_P = summed(
            LabelLoss(model), examples_of(tokens), weights_N, tokens_per_batch=tokens_per_batch
        )
        assert found_P.dtype == np.float32
        assert near(found_P, expected_P)


def test_sketches_keep_inner_products_up_to_the_error_that_is_told():
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
    exact_NP[:, first : first + frozen.numel()] = 0
    frozen.requires_grad_(False)
    norm_N, _ = sketched(LabelLoss(model), examples_of(tokens), seed=0)
    np.testing.assert_allclose(norm_N, np.linalg.norm(exact_NP, axis=1), rtol=1e-5)
    assert near(summed(LabelLoss(model), examples_of(tokens), np.ones(3), tokens_per_batch=100),
                exact_NP.sum(axis=0))  # fmt: skip


def test_means_and_sketches_are_exact_for_any_number_of_workers(
    local_ray, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(gradients, "WINDOW_ROWS", 6)
    monkeypatch.setattr(gradients, "SKETCHES", 5)
    table, tokens, clusters = stages(store, tmp_path)
    exact_NP = naive_gradients(table, small_model("llama"))
    ids = labelled(table)["example_id"].to_numpy()
    order = np.random.default_rng(0).permutation(len(ids))
    few, heavy = order[:5], order[3:12]
    weights = np.linspace(0.5, 4, len(heavy))
    without_label = table["example_id"].to_numpy()[[4]]  # is no part of a mean
    sets = {
        ("few", False): Weighted(np.append(ids[few], without_label), np.ones(6)),
        ("heavy", True): Weighted(ids[heavy], weights),
    }
    expected = [
        exact_NP.mean(0), exact_NP[few].mean(0), weights @ exact_NP[heavy] / weights.sum(),
    ]  # fmt: skip
    before = None
    for num_workers in (1, 3):
        workers = WorkersConfig(num_workers=num_workers)
        corpus, means = mean_gradients(store, CHECKPOINT, tokens, sets, workers=workers)
        found = [corpus, means["few", False], means["heavy", True]]
        assert [mean.examples for mean in found] == [len(ids), 5, 9]
        for mean, wanted in zip(found, expected, strict=True):
            assert near(mean.gradient, wanted)
        sample = sketch(
            store, CHECKPOINT, tokens, clusters, examples=1000, seed=1, workers=workers
        )  # of all
        np.testing.assert_allclose(sample.norm, np.linalg.norm(exact_NP, axis=1), rtol=1e-5)
        assert sample.sketch.shape == (len(ids), 4096)
        assert sample.cluster_id.tolist() == [i % 4 for i in ids]
        assert (sample.weight == 1).all()
        now = [mean.gradient for mean in found] + [*sample]
        if before is not None:
            assert all((a == b).all() for a, b in zip(before, now, strict=True))
        before = now

    with pytest.raises(ValueError, match="none of its examples has a label token in tokens/t"):
        sets = {"x": Weighted(without_label, np.ones(1))}
        mean_gradients(store, CHECKPOINT, tokens, sets, workers=workers)
    part = dataclasses.replace(tokens.parts[0], unit="part-00002")
    swapped = dataclasses.replace(tokens, parts=[*tokens.parts[:2], part])
    with pytest.raises(ValueError, match=r"example_id 20\d\d is not there, but in the clusters"):
        sketch(store, CHECKPOINT, swapped, clusters, examples=99, seed=1, workers=workers)


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
    unit, ids, group, weight = gradients._draw(store, clusters, 100, seed=3)
    assert np.bincount(group).tolist() == [60, 30, 10, 2]
    assert len(set(ids.tolist())) == 102
    assert (cluster_id[ids] == group).all()
    assert [name == f"part-{i // 500:05d}" for name, i in zip(unit, ids, strict=True)]
    for k, size in enumerate(sizes[:4]):
        assert weight[group == k].sum() == pytest.approx(size)
    other = gradients._draw(store, clusters, 100, seed=4)[1]
    assert len(set(other.tolist()) & set(ids.tolist())) < 40

    alone = pa.table({"example_id": [1, 2], "cluster_id": pa.array([0, 1], pa.int32())})
    part = store.write_part(alone, "clusters/a", "part-00000", suffix="parquet")
    with pytest.raises(ValueError, match="clusters/a: no cluster has two examples"):
        gradients._draw(store, store.commit("clusters/a", "a", [part], {}), 100, seed=3)
