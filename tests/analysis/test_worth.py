"""What a selection is worth in random data: by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s2l_ray.analysis.worth import Curve, Worth, worth

SEEDS = [(n, n) for n in range(6)]
NOISE = [0.01, -0.01, 0.02, -0.02, 0.005, -0.005]  # sums to 0


def values(level, wobble=0.0):
    return {seed: level + wobble * noise for seed, noise in zip(SEEDS, NOISE, strict=True)}


# Half a nat less for each doubling: 3.5, 3.0, 2.5.
CURVE = Curve({0.5: values(3.5), 1.0: values(3.0), 2.0: values(2.5)}, {})


def test_between_two_amounts_it_is_linear_in_the_logarithm():
    found = worth(values(2.75, 1), {}, CURVE)
    assert found is not None
    assert found.times == pytest.approx(math.sqrt(2), rel=1e-3)
    # An error of 0.0145/√6 = 0.00592 times t = 2.571 is 0.0152 nats, or 0.0304 doublings.
    assert math.log2(found.low) == pytest.approx(0.5 - 0.0304, abs=0.025)  # points are 0.02 apart
    assert math.log2(found.high) == pytest.approx(0.5 + 0.0304, abs=0.025)
    assert (found.least, found.most) == (0.5, 2.0)
    worse = worth(values(3.25, 1), {}, CURVE)
    assert worse is not None and worse.times == pytest.approx(1 / math.sqrt(2), rel=1e-3)


def test_random_is_worth_as_much_as_itself():
    found = worth(values(3.0, 1), {}, CURVE)
    assert found is not None and found.times == pytest.approx(1.0, rel=1e-3)


def test_a_measure_of_which_more_is_better():
    curve = Curve({1.0: values(0.4), 4.0: values(0.6)}, {})
    found = worth(values(0.5, 1), {}, curve, lower_is_better=False)
    assert found is not None and found.times == pytest.approx(2.0, rel=1e-3)


def test_nothing_is_extrapolated():
    far = worth(values(2.0, 1), {}, CURVE)
    assert far == Worth(math.inf, math.inf, math.inf, 0.5, 2.0)
    assert far.words == "above 2 [above 2, above 2]"
    near = worth(values(2.51, 1), {}, CURVE)
    assert near.times == pytest.approx(1.97, abs=0.01) and near.high == math.inf
    assert near.words.startswith("×1.97 [1.9") and near.words.endswith(", above 2]")
    bad = worth(values(4.0, 1), {}, CURVE)
    assert bad.times == 0 and bad.words == "below 0.5 [below 0.5, below 0.5]"


def test_a_flat_curve_says_nothing():
    flat = Curve({0.5: values(3.0, 1), 1.0: values(3.0, -1), 2.0: values(3.0, 2)}, {})
    found = worth(values(3.0, -2), {}, flat)
    assert found is not None and (found.low, found.high) == (0.0, math.inf)


def test_amounts_that_change_nothing_are_no_scale():
    none = Curve({0.5: values(0.0), 1.0: values(0.0), 2.0: values(0.0)}, {})  # no right answer
    assert worth(values(0.0), {}, none, lower_is_better=False) is None
    assert worth(values(0.1, 1), {}, none, lower_is_better=False) is None
    some = Curve({**none.values, 2.0: {**values(0.0), SEEDS[0]: 0.1}}, {})
    assert worth(values(0.0), {}, some, lower_is_better=False) is not None


def test_examples_widen_the_interval():
    # The examples move random's values at all amounts alike, and the selector's not.
    groups = {seed: [0.02, -0.02, 0.02, -0.02] for seed in SEEDS}
    none = {seed: [0.0] * 4 for seed in SEEDS}
    curve = CURVE._replace(influences={size: groups for size in CURVE.values})
    alone, both = worth(values(2.75, 1), {}, curve), worth(values(2.75, 1), none, curve)
    assert alone is not None and both is not None and both.times == alone.times
    assert both.low < alone.low < alone.high < both.high


def test_what_cannot_be_said():
    assert worth(values(3.0), {}, Curve({1.0: values(3.0)}, {})) is None  # one amount
    assert worth({(0, 0): 3.0}, {}, CURVE) is None  # one seed
    lost = values(2.75, 1) | {SEEDS[0]: math.nan}
    found = worth(lost, {}, CURVE)
    assert found is not None and found.times == pytest.approx(math.sqrt(2), rel=0.01)


def test_intervals_cover():
    """True worth √2; seeds shift all of a seed's values, and each value on its own."""
    rng, runs = np.random.default_rng(0), 300
    covered = 0
    for _ in range(runs):
        shift = rng.normal(0, 0.3, 6)

        def drawn(level, shift=shift):
            return dict(zip(SEEDS, level + shift + rng.normal(0, 0.05, 6), strict=True))

        curve = Curve({0.5: drawn(3.5), 1.0: drawn(3.0), 2.0: drawn(2.5)}, {})
        found = worth(drawn(2.75), {}, curve)
        assert found is not None
        covered += found.low <= math.sqrt(2) <= found.high
    assert covered / runs >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / runs)
