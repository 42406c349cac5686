"""The statistics behind a comparison: pure functions of numbers and of the seeds they came from.

Values that share a seed are not independent: with S selection and T training seeds, all crossed,
the S·T values tell of no more than S draws and T trainings. `interval` allows for that. For a
verdict, n pairs with a selection seed and a training seed each of their own say more than as many
pairs crossed; `spreads`, on the other hand, needs them crossed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

MIN_UNITS = 5  # independent pairs; below this no verdict about which selector is better


ALPHA = 0.05  # of two-sided tests; intervals are of 95%


SMALLEST_P = 1e-15  # of `interval`, where it has to search for p


Seeds = tuple[int, int]  # selection seed, training seed


class Interval(NamedTuple):
    """A mean, its standard error, its 95% interval and the two-sided p of a mean of zero."""

    mean: float | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


class Spreads(NamedTuple):
    """Variances of single values, in squared units of the values; see `spreads`."""

    selection: float | None
    training: float | None
    rest: float | None


def interval(values: Iterable[float], seeds: Iterable[Seeds] | None = None) -> Interval:
    """The mean of `values` with its 95% interval; `seeds` are those of each value.

    Without `seeds`, and where no seed occurs twice, the values are independent: Student's t. If one
    of the two seeds repeats, the independent units are its sums: the variance of the mean is
    V = G/(G − 1) Σ_g (Σ_{i in g} e_i)² / n² over its G seeds, where e_i = value − mean of the n
    values, with G − 1 degrees of freedom (for equal shares the t interval over the averages of the
    seeds). If both repeat, the two V are added without taking off what they have in common
    (Cameron, Gelbach and Miller 2011, Journal of Business & Economic Statistics 29:238, take it
    off): the variance of a crossed table's mean, σ_a²/S + σ_b²/T + σ²/ST, plus once more σ²/ST. The
    half width is sqrt(t_a² V_a + t_b² V_b), each t of its own degrees of freedom, which covers at
    least the 95% (Banerjee 1960, Sankhyā 22:357); with Satterthwaite's degrees of freedom up to 12%
    are missed (two seeds by ten). p is the level at which the interval ends at zero, here at least
    `SMALLEST_P`.

    Assumes additive normal effects of each seed and of the rest. Exact for independent values and
    for equal shares of one seed, wider than needed for crossed seeds, approximate for tables with
    holes. A seed that all values share is held fixed: the result is of this one, not of others.

    No value: all None. One value: the mean alone. Values without spread (standard error below a
    billionth of the mean: the same number every time, up to rounding) hold no measure of noise:
    standard error, but neither interval nor p; so with a value that is not finite.
    """
    values = list(values)
    if not values:
        return Interval()
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean)
    errors, freedoms = _standard_errors([value - mean for value in values], seeds)
    error = math.hypot(*errors)
    if not math.isfinite(error) or error <= 1e-9 * abs(mean):
        return Interval(mean, error)
    from scipy.special import stdtr, stdtrit  # 0.1 s to import

    def half_width(alpha: float) -> float:
        return math.hypot(
            *(stdtrit(df, alpha / 2) * e for df, e in zip(freedoms, errors, strict=True))
        )

    if len(freedoms) == 1:
        p = float(2 * stdtr(freedoms[0], -abs(mean) / error))
    elif half_width(SMALLEST_P) <= abs(mean):
        p = SMALLEST_P
    else:
        from scipy.optimize import brentq

        log_p = brentq(lambda x: half_width(math.exp(x)) - abs(mean), math.log(SMALLEST_P), 0)
        p = math.exp(log_p)
    return Interval(mean, error, mean - half_width(ALPHA), mean + half_width(ALPHA), p)


def _standard_errors(
    errors: Sequence[float], seeds: Iterable[Seeds] | None
) -> tuple[list[float], list[int]]:
    """Standard error of the mean and degrees of freedom, for each seed that repeats."""
    n = len(errors)
    kinds: list[Sequence[int]] = [] if seeds is None else list(zip(*seeds, strict=True))
    found, freedoms = [], []
    for kind in [kind for kind in kinds if 1 < len(set(kind)) < n] or [range(n)]:
        sums: dict[int, float] = defaultdict(float)
        for seed, error in zip(kind, errors, strict=True):
            sums[seed] += error
        groups = len(sums)
        found.append(math.sqrt(groups / (groups - 1) * math.fsum(x * x for x in sums.values())) / n)
        freedoms.append(groups - 1)
    return found, freedoms


def spreads(values: Mapping[Seeds, float]) -> Spreads:
    """Split the variance of the values of one method: how much is of the selection's seed, of the
    training's, and the rest.

    Two-way random effects, y = μ + a_selection + b_training + e, by the method of moments: half
    the mean squared difference of two values is σ_b² + σ² if they share the selection seed and
    σ_a² + σ² if they share the training seed; σ² is a quarter of the mean squared
    y11 − y12 − y21 + y22 over rectangles of two seeds by two, in which a and b cancel. For a full
    table these are the estimates of the analysis of variance (Searle, Casella and McCulloch 1992,
    Variance Components, chapter 4); one with holes needs no other formula. Negative estimates are
    cut at zero.

    With one selection seed `selection` is None and `training` holds the rest, which is None; the
    other way round likewise. Where every selection seed has training seeds of its own, `training`
    holds the rest too, and `selection` is what half the mean squared difference of two values of
    two selection seeds has beyond it. If both vary otherwise but there is no rectangle, all is in
    `rest`. Less than two values: all None. Raises ValueError for a value that is not finite.
    """
    rows: dict[int, dict[int, float]] = defaultdict(dict)  # by selection, then by training seed
    for (selection_seed, training_seed), value in values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"the value of selection seed {selection_seed} and training seed {training_seed} "
                f"is {value}: leave it out, a variance is of finite values"
            )
        rows[selection_seed][training_seed] = value
    same_selection = [
        (x - y) ** 2 / 2 for row in rows.values() for x, y in combinations(row.values(), 2)
    ]
    same_training, rectangles = [], []
    for row, other in combinations(rows.values(), 2):
        between = [row[seed] - other[seed] for seed in row.keys() & other.keys()]
        same_training += [x**2 / 2 for x in between]
        rectangles += [(x - y) ** 2 / 4 for x, y in combinations(between, 2)]
    if len(rows) == 1:
        return Spreads(None, _mean(same_selection), None)
    if len({training_seed for _, training_seed in values}) == 1:
        return Spreads(_mean(same_training), None, None)
    selection, training, rest = map(_mean, (same_training, same_selection, rectangles))
    if selection is None and training is not None:
        apart = [
            (x - y) ** 2 / 2
            for row, other in combinations(rows.values(), 2)
            for x in row.values()
            for y in other.values()
        ]
        return Spreads(max(0.0, math.fsum(apart) / len(apart) - training), training, None)
    if selection is None or training is None or rest is None:
        halves = [(x - y) ** 2 / 2 for x, y in combinations(values.values(), 2)]
        return Spreads(None, None, _mean(halves))
    return Spreads(max(0.0, selection - rest), max(0.0, training - rest), rest)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p in the given order: those at most α are the ones that Holm's procedure rejects.

    Holm (1979), Scandinavian Journal of Statistics 6:65. Raises ValueError for p outside 0..1.
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p-values lie between 0 and 1, found {bad[0]}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def detectable(sd: float, pairs: int, power: float = 0.8, alpha: float = ALPHA) -> float:
    """The smallest true difference that a paired t test finds, on its side, with this power.

    `sd` is the standard deviation of the differences, `pairs` the number of independent pairs.
    Where seeds are crossed, sd² is the sum of the `spreads` of the differences, and the number of
    the seeds of which there are fewer (but more than one) stands in for `pairs`, on the safe side.
    The test is two-sided at `alpha`; with m methods, alpha/m is the hardest step of Holm's
    correction. Raises ValueError for fewer than two pairs.
    """
    _check(sd, power, alpha)
    if pairs < 2:
        raise ValueError(f"pairs must be at least 2, got {pairs}: one has no spread")
    from scipy.optimize import brentq

    shift = 1.0  # of the t statistic: difference / (sd / sqrt(pairs))
    while _power(shift, pairs, alpha) < power:
        shift *= 2
    return brentq(lambda x: _power(x, pairs, alpha) - power, 0, shift) * sd / math.sqrt(pairs)


def pairs_needed(sd: float, difference: float, power: float = 0.8, alpha: float = ALPHA) -> int:
    """How many pairs a paired t test needs to find `difference`; at least `MIN_UNITS`.

    The inverse of `detectable`: see there for `sd`, pairs and alpha. Raises ValueError for a
    difference that is 0 or not finite.
    """
    _check(sd, power, alpha)
    if not 0 < abs(difference) < math.inf:
        raise ValueError(f"difference must be finite and not 0, got {difference}")

    def enough(pairs: int) -> bool:
        return sd == 0 or _power(abs(difference) / sd * math.sqrt(pairs), pairs, alpha) >= power

    low, high = MIN_UNITS - 1, MIN_UNITS
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(sd: float, power: float, alpha: float) -> None:
    if not 0 <= sd < math.inf:
        raise ValueError(f"sd must be finite and at least 0, got {sd}")
    if not 1e-5 <= alpha < power < 1:
        raise ValueError(f"wanted 1e-5 <= alpha < power < 1, got alpha {alpha} and power {power}")


def _power(shift: float, pairs: int, alpha: float) -> float:
    """P(T > t), T noncentral with n − 1 degrees of freedom, t the two-sided bound at `alpha`."""
    from scipy.special import nctdtr, stdtrit

    below = nctdtr(pairs - 1, shift, -stdtrit(pairs - 1, alpha / 2))
    return 1.0 if math.isnan(below) else 1 - float(below)  # NaN: less than 1e-6
