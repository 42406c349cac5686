"""Neyman's allocation and its weights: by hand, and against an enumeration of all draws.

N examples, G clusters.
"""

from itertools import combinations, product

import numpy as np
import pyarrow as pa
import pytest
from selection.test_choose import run, stages, subset_of

from s2l_ray.analysis.alarms import of_selection
from s2l_ray.selection.quotas import neyman, weights
from s2l_ray.selection.selectors import selector_named
from s2l_ray.selection.spread import root_mean_squares
from s2l_ray.store import Manifest, Part
from s2l_ray.store.schemas import SUBSET, WEIGHTED, completed_subset, signals
from s2l_ray.store.views import SelectionView, TokensView


def test_quotas_and_weights_by_hand():
    # |C_k| sigma_k is 100, 800 and 400: a budget of 52 is 1 : 8 : 4.
    sizes, spread = np.array([100, 400, 20]), np.array([1.0, 2.0, 20.0])
    quotas_of = selector_named("neyman").quotas
    found = quotas_of(sizes, [None] * 3, 52, spread_G=spread)
    assert found.tolist() == [4, 32, 16]
    assert weights(sizes, found).tolist() == [25, 12.5, 1.25]
    # The third has no more than 20; the other two share 90 as 1 : 8.
    found = quotas_of(sizes, [None] * 3, 110, spread_G=spread)
    assert found.tolist() == [10, 80, 20]
    assert weights(sizes, found).tolist() == [10, 5, 1]
    assert quotas_of(sizes, [None] * 3, 999, spread_G=spread).tolist() == sizes.tolist()
    # All alike: in proportion to the sizes.
    assert quotas_of(sizes, [None] * 3, 26).tolist() == [5, 20, 1]


def test_every_cluster_gives_one_if_the_budget_is_enough():
    sizes, weight = np.array([100, 0, 50, 5]), np.array([1000.0, 0.0, 1e-9, 0.0])
    assert neyman(sizes, 20, weight).tolist() == [18, 0, 1, 1]
    assert neyman(sizes, 3, weight).tolist() == [1, 0, 1, 1]
    assert neyman(sizes, 2, weight).tolist() == [1, 0, 1, 0]  # the largest weights first
    assert weights(sizes, neyman(sizes, 2, weight)).tolist() == [100, 0, 50, 0]
    # Of 155 examples, the last cluster's 5 have nothing that stands for them.
    info = {
        "examples": 2, "tokens": 20, "candidates": 155, "by_cluster": [1, 0, 1, 0],
        "weights": [100.0, 0.0, 50.0, 0.0],
    }  # fmt: skip
    stats = {"trainable": 155, "trainable_tokens": 1550}
    tokens = Manifest("t/t", "t", [Part("part-00000", "f", 155, 1, "c", stats)], {})
    [told] = of_selection(SelectionView(Manifest("s/s", "s", [], info)), TokensView(tokens))
    assert told.kind == "weights" and told.headline.startswith("3.23% of the examples are in")


@pytest.mark.parametrize("seed", range(40))
def test_quotas_add_up_and_nest(seed):
    random = np.random.default_rng(seed)
    groups = int(random.integers(1, 15))
    sizes = random.integers(0, 25, groups)
    weight = sizes * random.lognormal(0, 4, groups) * random.integers(0, 2, groups)
    before = np.zeros(groups)
    for budget in range(int(sizes.sum()) + 1):
        found = neyman(sizes, budget, weight)
        assert found.sum() == budget and (before <= found).all() and (found <= sizes).all()
        assert budget < (sizes > 0).sum() or (found[sizes > 0] >= 1).all()
        before = found


def test_the_allocation_has_the_least_variance_of_all():
    """Of a stratified sample's mean: sum of |C_k|^2 sigma_k^2 / q_k, the part that q_k decides."""
    sizes, spread = np.array([20, 10, 40]), np.array([1.0, 4.0, 0.5])

    def variance(quotas):
        return float(np.sum((sizes * spread) ** 2 / quotas))

    all_of_them = [
        (a, b, 16 - a - b) for a in range(1, 15) for b in range(1, min(11, 16 - a))
    ]  # fmt: skip
    best = min(all_of_them, key=variance)
    assert neyman(sizes, 16, sizes * spread).tolist() == list(best) == [4, 8, 4]


def test_the_weighted_mean_is_unbiased_and_the_plain_one_is_not():
    """Over every possible draw, all equally likely."""
    random = np.random.default_rng(0)
    sizes, means = (2, 3, 5), np.array([[8.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    gradients = [mean + random.normal(size=(n, 2)) for n, mean in zip(sizes, means, strict=True)]
    spread = np.array([np.sqrt((each**2).sum(1).mean()) for each in gradients])
    sizes_G = np.array(sizes)
    quotas = neyman(sizes_G, 6, sizes_G * spread)
    assert quotas.tolist() == [2, 2, 2]  # far from 2 : 3 : 5
    weight_G = weights(sizes_G, quotas)
    weighted, plain = [], []
    draws = [combinations(range(n), q) for n, q in zip(sizes, quotas, strict=True)]
    for draw in product(*draws):
        chosen = [each[list(rows)] for each, rows in zip(gradients, draw, strict=True)]
        sums = [w * each.sum(0) for w, each in zip(weight_G, chosen, strict=True)]
        weighted.append(np.sum(sums, axis=0) / float(weight_G @ quotas))
        plain.append(np.concatenate(chosen).mean(0))
    corpus = np.concatenate(gradients).mean(0)
    np.testing.assert_allclose(np.mean(weighted, axis=0), corpus, atol=1e-12)
    assert np.abs(np.mean(plain, axis=0) - corpus).max() > 0.3


def write_norms(store, given, norm_of):
    """Gradient norms of the clusters' examples, as the stage details/early has them."""
    parts = []
    for part in given["groups"].parts:
        ids = store.read_part("clusters/t", part)["example_id"].to_pylist()
        table = pa.table({
            "example_id": ids, "loss": [1.0] * len(ids), "num_label_tokens": [3] * len(ids),
            "grad_norm": [norm_of(i) for i in ids],
        }).cast(signals(["grad_norm"], 0))  # fmt: skip
        parts.append(store.write_part(table, "details/e", f"early/{part.unit}"))
    return store.commit("details/e", "e", parts, {})


def test_a_subset_has_the_weights_of_its_quotas(local_ray, store):
    given = stages(store)
    norm_of = lambda i: (i // 10 % 7) ** 2 % 7 + (i % 10) / 4  # noqa: E731
    norms = write_norms(store, given, norm_of)
    rows = subset_of(store, given["groups"]).to_pylist()
    cluster_N = np.array([row["cluster_id"] for row in rows])
    norm_N = np.array([norm_of(row["example_id"]) for row in rows])
    sizes = np.bincount(cluster_N, minlength=7)
    spread = np.array([
        np.sqrt((norm_N[cluster_N == k] ** 2).mean()) if sizes[k] else 0.0 for k in range(7)
    ])  # fmt: skip
    assert (sizes == 0).any()  # an empty cluster, too
    found = root_mean_squares(store, given["groups"], norms, "grad_norm")
    np.testing.assert_allclose(found, spread, rtol=1e-6)

    manifest = run(store, given | {"spread": norms}, selector="neyman", budget=60)
    quotas = np.array(manifest.info["by_cluster"])
    assert quotas.tolist() == neyman(sizes, 60, sizes * spread).tolist()
    [part] = manifest.parts
    subset = store.read_part(manifest.folder, part)
    assert subset.schema == WEIGHTED
    for row in subset.to_pylist():
        k = row["cluster_id"]
        assert row["weight"] == pytest.approx(sizes[k] / quotas[k], rel=1e-7)
    weight_B = subset["weight"].to_numpy().astype(np.float64)
    assert weight_B.sum() == pytest.approx(400)  # they stand for all examples
    effective = weight_B.sum() ** 2 / (weight_B**2).sum()
    assert manifest.info["effective_examples"] == pytest.approx(effective, rel=1e-6)
    assert effective < 60
    # Other selectors have no such column, nor have older run directories.
    other = run(store, given, selector="s2l", budget=60)
    table = store.read_part(other.folder, other.parts[0])
    assert table.schema == completed_subset(table).schema == SUBSET
    assert completed_subset(subset).schema == WEIGHTED and "weights" not in other.info


def test_a_norm_that_is_not_finite_is_named(local_ray, store):
    given = stages(store, 40)
    norms = write_norms(store, given, lambda i: float("nan"))
    with pytest.raises(ValueError, match=r"the grad_norm of example_id \d+ is nan, expected a fin"):
        root_mean_squares(store, given["groups"], norms, "grad_norm")
