"""Selection laws against cases by hand, and against subsets that are really drawn."""

import numpy as np
import pytest

from s2l_ray.analysis.laws import (
    Bins,
    add,
    alike,
    bin_of,
    law,
    pair,
    tally,
    tenths,
)
from s2l_ray.selection.cut import cut
from s2l_ray.selection.quotas import even


def of(*chances, **bins):
    """A tally; without bins, all examples are in one."""
    chance_SN = np.array(chances, np.float64)
    bins = bins or {"loss": [0] * chance_SN.shape[1]}
    return tally(chance_SN, {n: Bins(np.array(b), max(b) + 1) for n, b in bins.items()})


def test_a_law_by_hand():
    # Two of four with a low loss, one of two with a high one: quotas 1 and 1.
    found = law(of([0.25] * 4 + [0.5] * 2, loss=[0, 0, 0, 0, 1, 1], source=[0, 1, 0, 1, 0, 1]), 0)
    assert (found.examples, found.chosen, found.reach) == (6, 2.0, 1.0)
    assert found.corpus["loss"] == pytest.approx([4 / 6, 2 / 6])
    assert found.subset["loss"] == [0.5, 0.5]
    assert found.chance("loss") == [0.25, 0.5]
    assert found.total_variation("loss") == pytest.approx(1 / 6)
    assert found.total_variation("source") == 0
    # Weights 4, 4, 4, 4, 2, 2: 6 * 6 / (4 * 4 + 2 * 2).
    assert found.effective == pytest.approx(36 / 20)


def test_a_uniform_draw_is_as_large_as_it_looks():
    found = law(of([0.3] * 10), 0)
    assert found.effective == pytest.approx(found.chosen) == pytest.approx(3)


def test_a_ranking_reaches_its_subset_alone():
    found = law(of([1, 0, 0, 1, 0], loss=[0, 1, 1, 2, 3]), 0)
    assert (found.chosen, found.reach, found.effective) == (2.0, 0.4, 2.0)
    assert found.total_variation("loss") == pytest.approx(0.6)
    assert found.chance("loss") == [1.0, 0.0, 1.0, 0.0]


def test_an_empty_bin_has_no_chance():
    assert law(of([0.5, 0.5], loss=[0, 2]), 0).chance("loss") == [0.5, 0, 0.5]


def test_a_pair_by_hand():
    found = pair(of([0.5, 0.5, 0.5, 0.5], [1, 0.5, 0.5, 0]), 0, 1)
    assert found.correlation is None  # the first are all equal
    assert found.differ == pytest.approx(1 - 1.5 / 2)  # min: .5 .5 .5 0
    assert found.drawn_apart == pytest.approx(1 - 1.0 / 2)
    # Two draws of the first differ in half, of the second in 1 - (1 + .25 + .25) / 2.
    assert found.by_draw == pytest.approx((0.5 + 0.25) / 2)
    assert found.draw_noise == pytest.approx(0.375 / 0.5)


def test_correlation_is_numpys():
    random = np.random.default_rng(0)
    one = random.random(50)
    other = (one + random.random(50)) / 2
    found = pair(of(one, other, 1 - one), 0, 1)
    assert found.correlation == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert pair(of(one, other, 1 - one), 0, 2).correlation == pytest.approx(-1)


def test_equal_probabilities_correlate_with_nothing():
    one = np.random.default_rng(0).random(5546)
    assert pair(of(one, np.full(5546, 666 / 5546)), 0, 1).correlation is None


def test_the_same_ranking_twice():
    found = of([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1])
    assert pair(found, 0, 1) == (1.0, 0.0, 0.0, 0.0)
    assert pair(found, 0, 1).draw_noise == 1
    assert pair(found, 0, 2) == (-1.0, 1.0, 1.0, 0.0)
    assert pair(found, 0, 2).draw_noise == 0
    assert alike(found) == [(0, 1)]


def test_subsets_of_other_sizes_differ_in_what_the_larger_has_more():
    assert pair(of([0.2] * 10, [0.4] * 10), 0, 1).differ == pytest.approx(0.5)


def test_tallies_of_parts_add_up():
    random = np.random.default_rng(1)
    chance_SN, loss, source = random.random((3, 40)), random.integers(5, size=40), np.arange(40) % 3
    bins = {"loss": Bins(loss, 5), "source": Bins(source, 3)}
    whole = tally(chance_SN, bins, [True, False, True])
    parts = [
        tally(
            chance_SN[:, part],
            {n: Bins(b[part], count) for n, (b, count) in bins.items()},
            [True, False, True],
        )
        for part in (slice(0, 7), slice(7, 40))
    ]
    summed = add(*parts)
    assert summed.examples == 40 and summed.uniform_S.tolist() == [True, False, True]
    for name, spread in whole.spreads.items():
        for mine, other in zip(spread, summed.spreads[name], strict=True):
            np.testing.assert_allclose(mine, other)
    for mine, other in zip(whole[3:], summed[3:], strict=True):
        np.testing.assert_allclose(mine, other)


def test_tenths():
    values = np.arange(100.0)
    assert np.bincount(bin_of(values, tenths(values)).of_N).tolist() == [10] * 10
    equal = bin_of(np.full(5, 2.0), tenths(np.full(5, 2.0)))
    assert equal.number == 2 and (equal.of_N == equal.of_N[0]).all()


# -- against subsets that are drawn

N, BUDGET, DRAWS = 400, 90, 600


def grouped(seed, count):
    """Groups of very unequal sizes, ordered in the loss as clusters are; and the losses."""
    random = np.random.default_rng(seed)
    loss = np.sort(random.gamma(1.0, size=N))
    edges = np.sort(random.choice(np.arange(1, N), count - 1, replace=False))
    return np.searchsorted(edges, np.arange(N), "right").astype(np.int32), loss


def chances(group):
    sizes = np.bincount(group)
    return (even(sizes, BUDGET) / sizes)[group]


def drawn(group, seed):
    """Whether each example is in the subset that the selection stage cuts with this seed."""
    ids = np.random.default_rng(9).integers(2**62, size=N)
    quotas = even(np.bincount(group), BUDGET)
    return np.isin(ids, cut(ids, group, np.zeros(N), quotas, seed).example_id)


def test_the_law_is_the_mean_of_many_draws():
    group, loss = grouped(3, 12)
    bins = bin_of(loss, tenths(loss))
    found = law(tally(chances(group)[None], {"loss": bins}), 0)
    subsets = np.array([drawn(group, seed) for seed in range(DRAWS)])
    assert (subsets.sum(axis=1) == BUDGET).all()
    counted = np.array([np.bincount(bins.of_N[each], minlength=10) for each in subsets]) / BUDGET
    error = counted.std(axis=0) / np.sqrt(DRAWS)
    assert (np.abs(counted.mean(axis=0) - found.subset["loss"]) < 4 * error + 1e-9).all()
    # Kish's effective size of the weights 1 / p that the drawn examples have.
    weights = 1 / chances(group)
    kish = [weights[each].sum() ** 2 / (weights[each] ** 2).sum() for each in subsets]
    assert np.mean(kish) == pytest.approx(found.effective, rel=0.02)


def test_pairs_are_the_mean_of_many_draws():
    one, other = grouped(3, 12)[0], grouped(4, 7)[0]
    found = pair(of(chances(one), chances(other)), 0, 1)
    mine = np.array([drawn(one, seed) for seed in range(DRAWS)])
    same_seed = np.array([drawn(other, seed) for seed in range(DRAWS)])
    other_seed = np.array([drawn(other, seed + DRAWS) for seed in range(DRAWS)])

    def differ(these, those):
        return 1 - (these & those).sum(axis=1).mean() / BUDGET

    assert found.drawn_apart == pytest.approx(differ(mine, other_seed), abs=0.01)
    by_draw = differ(mine, np.roll(mine, 1, axis=0)), differ(same_seed, other_seed)
    assert found.by_draw == pytest.approx(np.mean(by_draw), abs=0.01)
    # Small groups fill their quotas earlier or later than their share of the keys.
    assert found.differ == pytest.approx(differ(mine, same_seed), abs=0.06)
    assert found.differ <= differ(mine, same_seed) + 0.01


def test_strata_of_equal_size_differ_from_random_like_draws():
    loss = np.arange(1000.0)
    strata = np.full(1000, 0.355)
    # Quotas that differ by one: the first five of ten strata of 100 give one example more.
    rounded = np.where(np.arange(1000) < 500, 0.36, 0.35)
    bins = {"loss": bin_of(loss, tenths(loss))}
    found = tally(np.array([strata, strata, rounded]), bins, [True, False, False])
    assert pair(found, 0, 1).differ == pytest.approx(0, abs=1e-9)
    assert pair(found, 0, 2).differ == pytest.approx(0.0025 / 0.355)
    # Strata do not scatter, so two kinds of them differ by more than their draws do.
    assert alike(found) == [(0, 1), (0, 2)]


def favoured(tilt):
    """A uniform draw beside one that takes more of the highest tenth."""
    loss = np.arange(20_000.0)
    more = np.where(loss >= 18_000, 0.1 * (1 + tilt), 0.1 * (1 - tilt / 9))
    return np.array([np.full(20_000, 0.1), more]), {"loss": bin_of(loss, tenths(loss))}


@pytest.mark.parametrize(
    ("tilt", "same"), [(0.0, True), (0.02, True), (0.03, False), (0.2, False), (1.0, False)]
)
def test_a_selector_that_favours_high_losses_is_not_like_random(tilt, same):
    # The shares 0.1 of 2,000 examples scatter by 0.0064 in one uniform draw, 0.0026 in six.
    found = tally(*favoured(tilt), [True, False])
    assert alike(found) == ([(0, 1)] if same else [])
    # The overlap alone would not show a small tilt.
    apart = pair(found, 0, 1)
    assert apart.differ == pytest.approx(0.1 * tilt)
    assert apart.by_draw == pytest.approx(0.9, abs=0.1)


def test_quotas_leave_no_scatter_to_hide_a_difference():
    assert alike(tally(*favoured(0.02), [False, False])) == []
    assert alike(tally(*favoured(0.02), [True, False])) == [(0, 1)]


@pytest.mark.parametrize(
    ("one", "other", "same"), [(0.12, 0.10, False), (0.11, 0.09, False), (0.101, 0.099, True)]
)
def test_a_difference_that_no_bin_shows_counts(one, other, same):
    loss = np.arange(30_000.0)
    hidden = loss % 2 == 0  # half of each tenth
    chances = np.array([np.where(hidden, one, other), np.where(hidden, other, one)])
    found = tally(chances, {"loss": bin_of(loss, tenths(loss))}, [False, False])
    assert pair(found, 0, 1).differ == pytest.approx((one - other) / (one + other))
    assert alike(found) == ([(0, 1)] if same else [])
    beside_random = np.array([chances[0], np.full(30_000, (one + other) / 2)])
    found = tally(beside_random, {"loss": bin_of(loss, tenths(loss))}, [False, True])
    assert alike(found) == ([(0, 1)] if same else [])


def test_subsets_that_no_bin_tells_apart_do_not_overlap():
    loss = np.tile(np.arange(10), 100)
    one = np.where(np.arange(1000) < 100, 1.0, 0.0)  # ten of each loss
    found = tally(np.array([one, np.roll(one, 300)]), {"loss": Bins(loss, 10)})
    assert pair(found, 0, 1).differ == 1
    assert alike(found) == []
