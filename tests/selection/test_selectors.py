"""Quotas against the paper's loop and the official code's rule, written out naively here."""

import re
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from s2l_ray.config import BUILT_IN_SELECTORS, SelectionConfig
from s2l_ray.selection.kinds import Cluster, Draw
from s2l_ray.selection.quotas import by_source_then_cluster, even, in_shares, uniform
from s2l_ray.selection.selectors import selector_named


def paper_loop(sizes, budget):
    """Algorithm 1 with fractional shares: smallest cluster first, R_k = what is left, shared."""
    counts, left = np.zeros(len(sizes)), float(budget)
    order = sorted(range(len(sizes)), key=lambda k: (sizes[k], k))
    for place, k in enumerate(order):
        counts[k] = min(sizes[k], left / (len(order) - place))
        left -= counts[k]
    return counts


def official_loop(sizes, sources, budget):
    """The official code's two nested loops, on member lists instead of arrays."""
    clusters = [[(g, i) for i in range(n)] for g, n in enumerate(sizes)]
    taken = []
    by_source = {s: [g for g in range(len(sizes)) if sources[g] == s] for s in sorted(set(sources))}
    total = {s: sum(sizes[g] for g in groups) for s, groups in by_source.items()}
    remaining = sorted(by_source, key=lambda s: total[s])
    while remaining:
        share = budget // len(remaining)
        source = remaining.pop(0)
        share = min(share, total[source])
        budget -= share
        usual = sorted((g for g in by_source[source] if sizes[g] > 2), key=lambda g: (sizes[g], g))
        while usual:
            per_cluster = share // len(usual)
            group = usual.pop(0)
            taken += clusters[group][:per_cluster]
            share -= min(per_cluster, sizes[group])
        for group in by_source[source]:
            if sizes[group] <= 2:
                taken += clusters[group][:share]
                share -= min(share, sizes[group])
    return np.bincount([g for g, _ in taken], minlength=len(sizes))


def random_case(seed):
    random = np.random.default_rng(seed)
    groups = int(random.integers(1, 30))
    sizes = np.maximum(1, random.lognormal(2, 1.5, groups).astype(np.int64))
    sources = [str(s) for s in random.integers(0, 4, groups)]
    return sizes, sources, int(random.integers(1, sizes.sum() + 1))


def test_s2l_by_hand():
    # Budget 10 over clusters of 1, 3 and 100: 1, then 3 (its share is 4.5), then the other 6.
    assert even(np.array([100, 1, 3]), 10).tolist() == [6, 1, 3]
    assert even(np.array([5, 5, 5]), 4).tolist() == [2, 1, 1]
    assert even(np.array([2, 2]), 9).tolist() == [2, 2]


@pytest.mark.parametrize("seed", range(300))
def test_s2l_is_the_papers_loop_up_to_one_per_cluster(seed):
    sizes, _, budget = random_case(seed)
    quotas = even(sizes, budget)
    assert quotas.sum() == budget
    assert (quotas <= sizes).all()
    assert np.abs(quotas - paper_loop(sizes, budget)).max() <= 1


@pytest.mark.parametrize("seed", range(300))
def test_s2l_official_is_the_official_loop(seed):
    sizes, sources, budget = random_case(seed)
    quotas = by_source_then_cluster(sizes, sources, budget)
    assert quotas.tolist() == official_loop(sizes.tolist(), sources, budget).tolist()
    assert quotas.sum() == budget


def test_s2l_official_uses_tiny_clusters_last():
    sizes, sources = np.array([2, 1, 10, 3]), ["a"] * 4
    assert by_source_then_cluster(sizes, sources, 6).tolist() == [0, 0, 3, 3]
    assert by_source_then_cluster(sizes, sources, 13).tolist() == [0, 0, 10, 3]
    assert by_source_then_cluster(sizes, sources, 15).tolist() == [2, 0, 10, 3]


def webster(sizes, weights, budget):
    """Seat after seat to the group whose weight / (seats + 1/2) is the largest."""
    counts = np.zeros(len(sizes), int)
    for _ in range(budget):
        worth = np.where(counts < sizes, weights / (counts + 0.5), -1.0)
        counts[worth.argmax()] += 1
    return counts


@pytest.mark.parametrize("seed", range(60))
def test_shares_are_websters(seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 60, 6)
    weights = random.integers(1, 1000, 6)
    budget = int(random.integers(1, sizes.sum() + 1))
    quotas = in_shares(sizes, budget, weights)
    assert quotas.tolist() == webster(sizes, weights, budget).tolist()


def test_shares_of_a_selection_of_the_same_budget_are_its_counts():
    sizes, sources = np.array([50, 7, 900, 3]), ["a", "b", "c", "d"]
    counts = {"a": 13, "c": 84, "d": 3}  # none of b
    quotas = partial(selector_named("random_shares").quotas, sizes, sources, like=counts)
    assert quotas(100).tolist() == [13, 0, 84, 3]
    # d has no more than 3; when a, c and d are used up, b comes in.
    assert quotas(200).tolist() == [26, 0, 171, 3]
    assert quotas(955).tolist() == [50, 2, 900, 3]


def test_tempered_quotas_worked_out_by_hand():
    sizes = np.array([100, 400, 900])  # square roots 10, 20, 30
    assert selector_named("s2l@0.5").quotas(sizes, [None] * 3, 60).tolist() == [10, 20, 30]
    assert selector_named("s2l@1").quotas(sizes, [None] * 3, 140).tolist() == [10, 40, 90]
    # The small cluster has no more than 3: the other two share the rest 1 : 2.
    sizes = np.array([3, 100, 400])
    assert selector_named("s2l@0.5").quotas(sizes, [None] * 3, 93).tolist() == [3, 30, 60]


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1])
def test_tempered_quotas_never_shrink_as_the_budget_grows(alpha):
    sizes = np.random.default_rng(0).integers(1, 80, 30)
    quotas = selector_named(f"s2l@{alpha:g}").quotas
    found = [quotas(sizes, [None] * 30, budget) for budget in range(0, sizes.sum() + 1, 7)]
    assert [each.sum() for each in found] == [*range(0, sizes.sum() + 1, 7)]
    assert all((before <= after).all() for before, after in pairwise(found))


def test_s2l_itself_is_not_changed_by_its_tempered_variant():
    tempered = selector_named("s2l@0.5")
    assert "power 0.5" in tempered.rule
    assert "power" not in selector_named("s2l").rule
    assert selector_named("s2l").quotas(np.array([100, 900]), [None] * 2, 60).tolist() == [30, 30]


@pytest.mark.parametrize("name", ["random@0.5", "longest@0.5", "s2l_official@0.5"])
def test_only_selectors_with_even_quotas_over_clusters_can_be_tempered(name):
    with pytest.raises(ValueError, match="even"):
        selector_named(name)


@pytest.mark.parametrize("name", ["s2l@0", "s2l@1.5", "s2l@", "s2l@x", "s2l@-1", "s2l@0.50"])
def test_a_power_that_is_none_is_refused_with_what_is_expected(name):
    with pytest.raises(ValidationError, match="NAME@ALPHA with 0 < ALPHA <= 1"):
        SelectionConfig(selector=name)


@pytest.mark.parametrize("name", BUILT_IN_SELECTORS)
def test_each_name_is_a_selector_of_its_own_that_says_what_it_does(name):
    assert selector_named(name).rule
    assert len({type(selector_named(each)) for each in BUILT_IN_SELECTORS}) == len(
        BUILT_IN_SELECTORS
    )


def test_uniform():
    assert uniform(np.array([7]), 3).tolist() == [3]


@pytest.mark.parametrize("name", BUILT_IN_SELECTORS)
@pytest.mark.parametrize("seed", range(30))
def test_quotas_never_fall_as_the_budget_grows(name, seed):
    sizes, sources, _ = random_case(seed)
    selector = selector_named(name)
    if not isinstance(selector, Cluster) and not (
        isinstance(selector, Draw) and selector.groups != "all"
    ):
        sizes, sources = sizes[:1], sources[:1]
    before = np.zeros_like(sizes)
    for budget in range(1, min(200, int(sizes.sum())) + 1):
        quotas = selector.quotas(sizes, sources, budget)
        assert (quotas >= before).all(), budget
        before = quotas


def test_the_page_of_selectors_has_a_line_for_each_with_its_rule():
    page = (Path(__file__).parents[2] / "docs/selectors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE)
    told: dict[str, str] = {}
    for name, rule in rows:  # the first table that names it
        if name in BUILT_IN_SELECTORS:
            told.setdefault(name, rule.replace("`", ""))
    assert told == {name: selector_named(name).rule for name in BUILT_IN_SELECTORS}
