"""Intervals, tests and sample sizes, checked by scipy, by hand, by textbooks and by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from scipy import integrate, stats

from s2l_ray.analysis.statistics import (
    Interval,
    Seeds,
    Spreads,
    detectable,
    holm,
    interval,
    pairs_needed,
    spreads,
)

# Standard deviations of the simulated effects: selection seed, training seed, the rest.
MIXED, OF_SELECTION, OF_TRAINING, OF_BOTH, OF_REST = (
    *((1.0, 1.0, 1.0), (1.0, 0.0, 0.3), (0.0, 1.0, 0.3), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
)
CROSSED = [*product(range(3), range(5))]
HOLES = [seeds for seeds in product(range(4), repeat=2) if seeds not in {(0, 0), (1, 3), (2, 1)}]


def draw(rng: np.random.Generator, seeds: list[Seeds], effects: tuple[float, ...]) -> list[float]:
    """Values with mean 0 and additive normal effects of the two seeds and the rest."""
    selection, training = (rng.normal(0, e, 99) for e in effects[:2])
    return [selection[s] + training[t] + rng.normal(0, effects[2]) for s, t in seeds]


@pytest.mark.parametrize("n", [2, 5, 40])
def test_independent_values_agree_with_scipy(n: int) -> None:
    mine, other = np.random.default_rng(n).normal((0.3, 0.0), (1.0, 0.5), (n, 2)).T
    expected = stats.ttest_rel(mine, other)
    low, high = expected.confidence_interval(0.95)
    wanted = ((mine - other).mean(), stats.sem(mine - other), low, high, expected.pvalue)
    for seeds in (None, [(i, 10 * i) for i in range(n)], [(7, i) for i in range(n)]):
        assert interval(mine - other, seeds) == pytest.approx(wanted, rel=1e-9)


def test_nested_training_seeds_are_averaged_per_selection_seed() -> None:
    values = np.random.default_rng(1).normal(0.5, 1, (4, 3))
    expected = stats.ttest_1samp(values.mean(axis=1), 0)
    low, high = expected.confidence_interval(0.95)
    seeds = [(s, 3 * s + t) for s in range(4) for t in range(3)]
    for order in (seeds, [(t, s) for s, t in seeds]):
        found = interval(values.ravel(), order)
        assert found[2:] == pytest.approx((low, high, expected.pvalue))


def test_crossed_seeds_add_the_mean_squares_of_both() -> None:
    # Row means 2, 4, 9 (of 5), column means 4, 6: MS rows = 2 (9 + 1 + 16) / 2 = 26, MS columns =
    # 3 (1 + 1) / 1 = 6, each over the six values.
    values = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 3.0, (1, 1): 5.0, (2, 0): 8.0, (2, 1): 10.0}
    found = interval(values.values(), values)
    assert found[:2] == pytest.approx((5.0, math.sqrt(26 / 6 + 6 / 6)))

    def half_width(level: float) -> float:
        t_rows, t_columns = stats.t.ppf(level / 2, (2, 1))
        return math.sqrt(t_rows**2 * 26 / 6 + t_columns**2 * 6 / 6)

    assert found[2:4] == pytest.approx((5 - half_width(0.05), 5 + half_width(0.05)))
    assert half_width(found.p_value) == pytest.approx(5.0)
    around_zero = interval([value - 5 for value in values.values()], values)
    assert around_zero.p_value == pytest.approx(1.0)
    seeds = [*product(range(6), repeat=2)]
    far = interval(np.random.default_rng(6).normal(1, 1e-6, 36), seeds)
    assert far.p_value == 1e-15 and far.low > 0


def test_degenerate_intervals() -> None:
    assert interval([]) == Interval(None, None, None, None, None)
    assert interval([0.3], [(1, 1)]) == Interval(0.3, None, None, None, None)
    assert interval([0.0] * 6) == Interval(0.0, 0.0, None, None, None)
    rounded = [3 / 20 - 2 / 20, 8 / 20 - 7 / 20, 15 / 20 - 14 / 20]
    assert len(set(rounded)) > 1 and interval(rounded)[2:] == (None, None, None)
    assert interval([1.0, math.nan, 2.0])[2:] == (None, None, None)
    assert interval([1.0, math.inf]).mean == math.inf


@pytest.mark.parametrize(
    ("seeds", "effects", "exact"),
    [
        ([(i, i) for i in range(6)], MIXED, True),
        ([(0, i) for i in range(6)], OF_TRAINING, True),
        ([(i // 3, i) for i in range(12)], MIXED, True),
        (CROSSED, MIXED, False),
        (CROSSED, OF_SELECTION, False),
        (CROSSED, OF_TRAINING, False),
        (CROSSED, OF_BOTH, False),
        (CROSSED, OF_REST, False),
        ([*product(range(2), range(10))], OF_BOTH, False),
        (HOLES, MIXED, False),
        (HOLES, OF_SELECTION, False),
    ],
)
def test_intervals_cover(seeds: list[Seeds], effects: tuple[float, ...], exact: bool) -> None:
    rng, runs = np.random.default_rng(5), 1500
    found = [interval(draw(rng, seeds, effects), seeds) for _ in range(runs)]
    covered = np.mean([f.low <= 0 <= f.high for f in found])
    assert covered == np.mean([f.p_value >= 0.05 for f in found])
    allowed = 3.5 * math.sqrt(0.95 * 0.05 / runs)
    assert covered >= 0.95 - allowed
    if exact:
        assert covered <= 0.95 + allowed


def test_ignoring_shared_seeds_would_not_cover() -> None:
    rng = np.random.default_rng(5)
    found = [interval(draw(rng, CROSSED, OF_SELECTION)) for _ in range(300)]
    assert np.mean([f.low <= 0 <= f.high for f in found]) < 0.8


def test_spreads_of_a_balanced_table_by_hand() -> None:
    # Row means 4, 5, 4; column means 2, 4, 7; mean 13/3. SS rows = 3 (1/9 + 4/9 + 1/9) = 2,
    # SS columns = 3 (49 + 1 + 64) / 9 = 38, SS all = 229 - 169 = 60, so SS rest = 20.
    # MS 1, 19, 5: rest 5, columns (19 - 5) / 3, rows (1 - 5) / 3, cut at zero.
    rows = [[1.0, 3.0, 8.0], [5.0, 5.0, 5.0], [0.0, 4.0, 8.0]]
    values = {(s, t): rows[s][t] for s, t in product(range(3), repeat=2)}
    assert spreads(values) == pytest.approx(Spreads(0.0, 14 / 3, 5.0))
    turned = spreads({(t, s): value for (s, t), value in values.items()})
    assert turned == pytest.approx(Spreads(14 / 3, 0.0, 5.0))


def test_spreads_of_tables_with_holes_are_unbiased() -> None:
    rng, effects = np.random.default_rng(2), (3.0, 2.0, 1.0)
    found = [spreads(dict(zip(HOLES, draw(rng, HOLES, effects), strict=True))) for _ in range(3000)]
    assert np.mean(found, axis=0) == pytest.approx([9.0, 4.0, 1.0], rel=0.06)


def test_spreads_that_cannot_be_separated() -> None:
    assert spreads({(1, 1): 2.0}) == Spreads(None, None, None)
    assert spreads({(1, 1): 2.0, (1, 2): 4.0, (1, 3): 6.0}) == Spreads(None, 4.0, None)
    assert spreads({(1, 1): 2.0, (2, 1): 4.0, (3, 1): 6.0}) == Spreads(4.0, None, None)
    assert spreads({(1, 1): 2.0, (2, 2): 4.0, (3, 3): 6.0}) == Spreads(None, None, 4.0)
    # Each selection seed has its own: within (2 - 4)^2 / 2 = 2; between, the mean of 8 and 2.
    assert spreads({(1, 1): 2.0, (1, 2): 4.0, (2, 3): 6.0}) == Spreads(3.0, 2.0, None)
    assert spreads({}) == Spreads(None, None, None)
    with pytest.raises(
        ValueError, match="selection seed 1 and training seed 2 is nan, expected a finite"
    ):
        spreads({(1, 1): 0.0, (1, 2): math.nan})


def test_holm_by_hand() -> None:
    # ascending: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04, raised to the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.04]) == [0.04] and holm([]) == []
    with pytest.raises(ValueError, match=r"p: found 1\.2, expected a number between 0 and 1"):
        holm([0.5, 1.2])


def test_holm_rejects_what_the_procedure_rejects() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        p, alpha = rng.random(rng.integers(1, 7)) ** 4, rng.random() * 0.2
        rejected, left = set(), sorted(range(len(p)), key=lambda i: p[i])
        while left and p[left[0]] <= alpha / len(left):
            rejected.add(left.pop(0))
        assert {i for i, adjusted in enumerate(holm(p)) if adjusted <= alpha} == rejected


def test_pairs_needed_agrees_with_textbooks() -> None:
    # Two-sided paired t test at 0.05: 80% power for d = 0.2, 0.5, 0.8, and 90 or 95% for 0.5.
    assert [pairs_needed(1.0, d) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert [pairs_needed(3.0, -1.5, power=power) for power in (0.9, 0.95)] == [44, 54]
    assert pairs_needed(1.0, 50.0) == pairs_needed(0.0, 1.0) == 6
    # With this many pairs t is normal: (1.959964 + 0.841621)^2 / d^2.
    assert pairs_needed(1.0, 1e-4) == pytest.approx(7.848879e8, rel=1e-6)


@pytest.mark.parametrize("pairs", [2, 3, 5, 12, 100])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_detectable_has_the_power(pairs: int, alpha: float) -> None:
    shift = detectable(2.0, pairs, alpha=alpha) / 2 * math.sqrt(pairs)
    bound = stats.t.ppf(1 - alpha / 2, pairs - 1)

    def found(u: float) -> float:  # u: the sample's standard deviation over the true one
        density = stats.chi.pdf(u * math.sqrt(pairs - 1), pairs - 1) * math.sqrt(pairs - 1)
        return density * stats.norm.cdf(shift - bound * u)

    assert integrate.quad(found, 0, 10, points=[shift / bound], limit=200)[0] == pytest.approx(0.8)


def test_detectable_by_simulation() -> None:
    difference = detectable(0.03, 6)
    x = np.random.default_rng(4).normal(difference, 0.03, (40_000, 6))
    rejected = np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05)
    assert rejected == pytest.approx(0.8, abs=3.5 * math.sqrt(0.8 * 0.2 / 40_000))
    assert pairs_needed(0.03, difference * 1.0001) == 6
    assert pairs_needed(0.03, difference * 0.9999) == 7
    assert detectable(0.0, 6) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detectable(1.0, 1), "pairs: found 1, expected at least 2"),
        (lambda: detectable(-1.0, 5), "sd: found -1.0, expected a finite number of at least 0"),
        (lambda: detectable(math.nan, 5), "sd: found nan, expected a finite"),
        (
            lambda: pairs_needed(1.0, 0.0),
            "difference: found 0.0, expected a finite number other than 0",
        ),
        (
            lambda: pairs_needed(1.0, 0.1, power=1.0),
            "alpha and power: found 0.05 and 1.0, expected 1e-5 <= alpha < power < 1",
        ),
        (
            lambda: detectable(1.0, 5, alpha=1e-6),
            "alpha and power: found 1e-06 and 0.8, expected 1e-5 <= alpha",
        ),
    ],
)
def test_impossible_plans(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
