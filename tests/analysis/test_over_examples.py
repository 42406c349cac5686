"""The error over evaluation examples, alone and with seeds: by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from s2l_ray.analysis import examples
from s2l_ray.analysis.statistics import interval


def test_influences_of_a_mean_over_tokens_are_its_changes() -> None:
    rng = np.random.default_rng(0)
    total, labels = rng.gamma(2, 1, 50), rng.integers(1, 9, 50).astype(float)
    found = examples.of_mean_over_tokens(total, labels)
    assert found.sum() == pytest.approx(0, abs=1e-12)
    # An infinitesimal more of example 7.
    more = np.ones(50)
    more[7] += 1e-6
    changed = (more * total).sum() / (more * labels).sum() - total.sum() / labels.sum()
    assert found[7] == pytest.approx(changed / 1e-6, rel=1e-4)


def test_groups_are_neighbours_of_equal_size() -> None:
    order = np.array([4, 3, 2, 1, 0])
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert examples.in_groups(values, order) == [16.0, 8.0, 4.0, 2.0, 1.0]  # each its own
    many = np.ones(2 * examples.GROUPS + 3)
    sums = examples.in_groups(many, np.arange(len(many)))
    assert len(sums) == examples.GROUPS and sum(sums) == len(many)
    assert set(sums) == {2.0, 3.0}
    assert examples.in_groups(np.zeros(0), np.zeros(0, int)) == []


def test_the_variance_of_a_plain_mean_is_the_textbooks() -> None:
    """The influence on a mean is (x − mean)/n, so V is s²/n."""
    x = np.random.default_rng(1).normal(0, 1, 40)
    found = examples.variance(examples.of_mean_over_tokens(x, np.ones(40)))
    assert found == pytest.approx(stats.sem(x) ** 2)
    assert examples.variance([0.1]) is None


def test_what_examples_cause_for_all_seeds_by_hand() -> None:
    # Seed means 1, −1 per group; the seeds are 2, 0 and 0, −2: V_all = 2 (1 + 1) = 4 of 2 groups,
    # V_one = 2 (4 + 0) = 8 for both. σ_b²/N = 4 − (8 − 4)/(2 − 1) = 0.
    assert examples.shared({(0, 0): [2.0, 0.0], (1, 1): [0.0, -2.0]}) == (0.0, 1)
    # The same for both seeds: all of it.
    assert examples.shared({(0, 0): [1.0, -1.0], (1, 1): [1.0, -1.0]}) == (4.0, 1)
    # 3 and 1: V_all = 2 (4 + 4) = 16, V_one = 2 (9 + 9 + 1 + 1)/2 = 20; 16 − 4/1.
    assert examples.shared({(0, 0): [3.0, -3.0], (1, 1): [1.0, -1.0]}) == (12.0, 1)
    # One seed: nothing can be taken off. Two trainings of it are as many seeds of training.
    assert examples.shared({(0, 0): [1.0, -1.0]}) == (4.0, 1)
    assert examples.shared({(0, 0): [3.0, -3.0], (0, 1): [1.0, -1.0]}) == (12.0, 1)
    # Trainings of one selection seed are averaged first.
    twice = {(0, 0): [4.0, -4.0], (0, 9): [2.0, -2.0], (1, 1): [1.0, -1.0], (1, 8): [1.0, -1.0]}
    assert examples.shared(twice) == (12.0, 1)
    assert examples.shared({(0, 0): [1.0], (1, 1): [1.0, -1.0]}) is None
    assert examples.shared({(0, 0): [0.0], (1, 1): [0.0]}) is None


@pytest.mark.parametrize(
    "of_seed, of_example, of_both",
    [(0.2, 1.0, 1.0), (0.0, 1.0, 0.0), (0.3, 0.0, 1.0), (0.0, 0.0, 4.0), (0.05, 1.0, 3.0)],
)
def test_intervals_over_seeds_and_examples_cover(
    of_seed: float, of_example: float, of_both: float
) -> None:
    """Six seeds and 60 examples drawn again and again: d = a_s + b_e + c_se, mean 0."""
    rng, runs, seeds, count = np.random.default_rng(3), 400, 6, 60
    covered = missed_by_seeds = 0
    for _ in range(runs):
        d = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_example, count)
        d = d + rng.normal(0, of_both, (seeds, count))
        values = {(s, s): float(d[s].mean()) for s in range(seeds)}
        influences = {
            (s, s): examples.of_mean_over_tokens(d[s], np.ones(count)) for s in range(seeds)
        }
        found = interval(values.values(), values, examples.shared(influences))
        if found.low is None:  # no spread over seeds
            covered += 1
            continue
        covered += found.low <= 0 <= found.high
        alone = interval(values.values(), values)
        missed_by_seeds += not alone.low <= 0 <= alone.high
    # 0.95 less four standard errors of 400 runs.
    assert covered / runs >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / runs)
    if of_example and of_both <= 1 and of_seed:
        assert missed_by_seeds / runs > 0.15  # over seeds alone it would be too short
    if not of_example:
        assert covered / runs <= 0.99  # and where examples add nothing, not much too long
