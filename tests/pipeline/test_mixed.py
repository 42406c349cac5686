"""A selector with the source shares of another: which budget it is taken from."""

import pytest
from support.runs import Given, settings

from s2l_ray.errors import TooFew
from s2l_ray.pipeline import mixed
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.store import Manifest

MADE = Manifest("selections/made", "made", [])


@pytest.fixture
def taken(monkeypatch):
    """Return a function of the number of candidates: the budgets that were tried, and the result.

    One in `rare` that `longest` chooses is of source b, two fifths of what random chooses.
    """

    def take(candidates, rare=5):
        tried = []

        def choose(_, choice):
            n = choice.budget
            if choice.selector == "random":
                by_source = {"a": n - 2 * n // 5, "b": 2 * n // 5}
            else:
                tried.append(n)
                by_source = {"a": n - n // rare, "b": n // rare}
            info = {"by_source": by_source, "candidates": candidates}
            return pipeline.Selection(None, Manifest("selections/x", f"{n}", [], info))

        monkeypatch.setattr(mixed, "choose_subset", choose)
        config = settings("run")
        name = f"selections/longest-in-shares-of-random-seed{config.seed}"
        view = Given.of(config, {name: MADE})
        return tried, lambda: mixed.subset_in_shares(view, "longest", "random", 10)

    return take


def test_a_budget_that_has_enough_of_each_source_is_found(taken):
    tried, subset = taken(100)
    assert subset() is MADE and tried == [10, 20]


def test_a_source_that_the_selector_has_too_few_of_is_told(taken):
    tried, subset = taken(15)
    with pytest.raises(TooFew, match="longest can choose 3 examples of b, but random's share is 4"):
        subset()
    assert tried == [10, 15]


def test_a_source_that_the_selector_leaves_aside_is_not_looked_for_in_the_whole_corpus(taken):
    tried, subset = taken(10_000, rare=100)
    words = "of 80 examples, 8 times the budget, longest chooses 0 of b, but random's share is 4"
    with pytest.raises(TooFew, match=words):
        subset()
    assert tried == [10, 20, 40, 80]


@pytest.mark.parametrize("selector", ["s2l_official", "s2l@0.5"])
def test_a_selector_that_does_not_draw_in_rounds_has_no_order_within_a_source(selector):
    for known in ("random_balanced", "loss_strata", "loss_kmeans", "longest", "cross_fitted"):
        mixed.check_shares(known)
    with pytest.raises(ValueError, match=f"compare.shares: {selector} does not draw one example"):
        mixed.check_shares(selector)


def test_a_greedy_selector_has_no_order_within_a_source():
    mixed.check_shares("s2l")
    with pytest.raises(ValueError, match=r"compare\.shares: k_center chooses greedily"):
        mixed.check_shares("k_center")
