"""Two one-sided tests and flipped signs: by scipy, by hand, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from s2l_ray.analysis.equality import least_margin, p_of_equality, p_of_signs
from s2l_ray.analysis.statistics import OverExamples


def test_equality_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.3, -0.3, 2.0):
        values = rng.normal(shift, 1, 8)
        below = stats.ttest_1samp(values, 1.0, alternative="less").pvalue
        above = stats.ttest_1samp(values, -1.0, alternative="greater").pvalue
        assert p_of_equality(values, 1.0) == pytest.approx(max(below, above))
        margin = least_margin(values)
        assert margin is not None
        assert p_of_equality(values, margin) == pytest.approx(0.05)
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        assert margin == pytest.approx(max(-low, high))


def test_equality_takes_the_error_over_examples() -> None:
    values, error = [0.1, -0.1, 0.05, -0.05, 0.02, -0.02], OverExamples(0.04, 50)
    alone, both = p_of_equality(values, 0.2), p_of_equality(values, 0.2, examples=error)
    assert alone is not None and both is not None and alone < 0.001 < 0.05 < both
    margin = least_margin(values, examples=error)
    t = stats.t.ppf(0.95, [5, 50]) * [stats.sem(values), 0.2]
    assert margin == pytest.approx(math.hypot(*t))


def test_values_without_spread_are_not_shown_equal() -> None:
    assert p_of_equality([0.1] * 6, 0.2) is None and least_margin([0.1] * 6) is None
    assert p_of_equality([0.1], 0.2) is None and least_margin([]) is None


def test_a_margin_that_is_not_finite_shows_nothing() -> None:
    for margin in (math.nan, math.inf):
        assert p_of_equality([0.1, -0.1, 0.3], margin) is None
    assert p_of_equality([0.1, math.nan], 0.2) is None


def test_equality_is_wrong_in_one_case_of_twenty_at_most() -> None:
    rng, runs = np.random.default_rng(1), 2000
    p = [p_of_equality(rng.normal(1.0, 0.5, 6), 1.0) for _ in range(runs)]
    wrong = np.mean([each is not None and each <= 0.05 for each in p])
    assert wrong == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / runs))


def test_flipped_signs_by_hand_and_by_scipy() -> None:
    # 3 of 8 with +: |sums| of ±1 ±2 ±4 are 7, 5, 3, 1, twice each. Seen is 1 + 4 − 2 = 3.
    assert p_of_signs({(0, 0): 1.0, (1, 1): -2.0, (2, 2): 4.0}) == 6 / 8
    for seed in range(3):
        values = np.random.default_rng(seed).normal(0.5, 1, 7)
        exact = stats.permutation_test(
            (values, np.zeros(7)), lambda x, y: np.mean(x - y), permutation_type="samples",
            n_resamples=np.inf,
        )  # fmt: skip
        found = p_of_signs({(n, n): value for n, value in enumerate(values)})
        assert found == pytest.approx(exact.pvalue)


def test_values_of_one_seed_flip_together() -> None:
    twice = {(n // 2, n): 1.0 for n in range(6)}
    assert p_of_signs(twice) == 2 / 8
    assert p_of_signs({(0, 0): 1.0}) is None
    assert p_of_signs({(n, n): 1.0 for n in range(17)}) is None
