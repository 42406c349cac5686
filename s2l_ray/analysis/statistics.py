"""The statistics of a comparison: pure functions of values and the seeds they came from.

Values that share a seed are not independent. S selection seeds crossed with T training seeds give
S·T values, but only S draws and T trainings. `interval` accounts for that. n pairs that each have
their own two seeds are more informative than n crossed pairs; only `spreads` needs crossed seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

# Independent pairs that a verdict needs. Signs flipped at random, five that all agree still have
# p = 2/32 = 0.0625; six have 2/64 = 0.031.
MIN_UNITS = 6
ALPHA = 0.05  # two-sided; intervals are 95%
SMALLEST_P = 1e-15  # lower end of the search for p

Seeds = tuple[int, int]  # selection seed, training seed


class Interval(NamedTuple):
    """A mean, its standard error, its 95% interval, and the two-sided p against a mean of zero."""

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


class Mean(NamedTuple):
    """A mean and its independent errors: standard errors, each with its degrees of freedom."""

    mean: float
    errors: tuple[float, ...]
    freedoms: tuple[int, ...]

    @property
    def standard_error(self) -> float:
        return math.hypot(*self.errors)

    @property
    def has_spread(self) -> bool:
        """Whether the error over seeds, the first, is more than rounding."""
        return math.isfinite(self.standard_error) and self.errors[0] > 1e-9 * abs(self.mean)

    def half_width(self, alpha: float) -> float:
        """Return the half width of the interval that misses with probability alpha."""
        from scipy.special import stdtrit  # 0.1 s to import

        parts = zip(self.freedoms, self.errors, strict=True)
        return math.hypot(*(stdtrit(freedom, alpha / 2) * error for freedom, error in parts))

    def p_value(self, distance: float) -> float:
        """Return the two-sided p of a distance between the mean and a hypothesis: the level whose
        interval has this half width, at least `SMALLEST_P` if there are several errors."""
        from scipy.special import stdtr

        if len(self.freedoms) == 1:
            return float(2 * stdtr(self.freedoms[0], -abs(distance) / self.standard_error))
        if self.half_width(SMALLEST_P) <= abs(distance):
            return SMALLEST_P
        from scipy.optimize import brentq

        def beyond(log_p: float) -> float:
            return self.half_width(math.exp(log_p)) - abs(distance)

        return math.exp(brentq(beyond, math.log(SMALLEST_P), 0))


class OverExamples(NamedTuple):
    """The variance of a mean that its evaluation examples cause (analysis.examples)."""

    variance: float
    freedom: int


def mean_of(
    values: Iterable[float],
    seeds: Iterable[Seeds] | None = None,
    examples: OverExamples | None = None,
) -> Mean | None:
    """Return the mean of two or more values with its errors, None for fewer. See `interval`."""
    values = list(values)
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    errors, freedoms = _standard_errors([value - mean for value in values], seeds)
    if len(errors) > 1 and errors[0] < errors[1]:  # the larger first, for `has_spread`
        errors, freedoms = errors[::-1], freedoms[::-1]
    if examples is not None and examples.variance > 0:
        errors.append(math.sqrt(examples.variance))
        freedoms.append(examples.freedom)
    return Mean(mean, tuple(errors), tuple(freedoms))


def interval(
    values: Iterable[float],
    seeds: Iterable[Seeds] | None = None,
    examples: OverExamples | None = None,
) -> Interval:
    """Return the mean of `values` with its 95% interval. `seeds` are those of each value.

    - No `seeds`, or no seed twice: the values are independent, and the interval is Student's t.
    - One kind of seed repeats: the G sums over its seeds are independent. The variance of the mean
      is V = G/(G − 1) Σ_g (Σ_{i in g} e_i)² / n², where e_i = value − mean of the n values, with
      G − 1 degrees of freedom. With equal group sizes this is the t interval over group means.
    - Both kinds repeat: the two V are added. This counts their common part σ²/ST twice, which
      Cameron, Gelbach and Miller (2011, Journal of Business & Economic Statistics 29:238) subtract,
      so the interval is conservative.
    - `examples`: the variance that all values share because they are means over the same evaluation
      examples. It is added too. V over seeds contains what seeds and examples cause together, so
      nothing is counted twice (analysis.examples).

    The half width of several V is sqrt(Σ t_k² V_k), each t with its own degrees of freedom. It
    covers at least 95% (Banerjee 1960, Sankhyā 22:357). With Satterthwaite's degrees of freedom up
    to 12% would be missed (two seeds by ten). p is the level whose interval ends at zero, at least
    `SMALLEST_P`.

    Assumes additive normal effects of each seed and of the rest. Exact for independent values and
    for equal groups of one seed, conservative for several V, approximate for incomplete tables.
    A seed that all values share is held fixed: the result holds for that seed only.

    No value: all None. One value: only the mean. Values without spread over seeds (a standard error
    below 1e-9 of the mean is rounding), or one that is not finite: no interval and no p.
    """
    values = list(values)
    if not values:
        return Interval()
    found = mean_of(values, seeds, examples)
    if found is None:
        return Interval(values[0])
    if not found.has_spread:
        return Interval(found.mean, found.standard_error)
    mean, half = found.mean, found.half_width(ALPHA)
    return Interval(mean, found.standard_error, mean - half, mean + half, found.p_value(mean))


def _standard_errors(
    errors: Sequence[float], seeds: Iterable[Seeds] | None
) -> tuple[list[float], list[int]]:
    """Return the standard error of the mean and degrees of freedom for each seed that repeats."""
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
    """Split the variance of one method's values into selection seed, training seed and rest.

    Two-way random effects, y = μ + a_selection + b_training + e, by the method of moments. Half the
    mean squared difference of two values is σ_b² + σ² if they share the selection seed, and
    σ_a² + σ² if they share the training seed. σ² is a quarter of the mean squared
    y11 − y12 − y21 + y22 over rectangles of two seeds by two, in which a and b cancel. For a
    complete table these are the estimates of the analysis of variance (Searle, Casella and
    McCulloch 1992, Variance Components, chapter 4); an incomplete one needs no other formula.
    Negative estimates become zero.

    What cannot be separated:

    - One selection seed: `training` includes the rest; `selection` and `rest` are None. One
      training seed: the same with `selection`.
    - Each selection seed has its own training seeds: `training` includes the rest, and `selection`
      is half the mean squared difference between selection seeds minus `training`.
    - Both vary, but without a rectangle: all is in `rest`.
    - Fewer than two values: all None.

    Raises ValueError for a value that is not finite.
    """
    rows: dict[int, dict[int, float]] = defaultdict(dict)  # by selection, then by training seed
    for (selection_seed, training_seed), value in values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"the value of selection seed {selection_seed} and training seed {training_seed} "
                f"is {value}, expected a finite number: leave it out"
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
    """Return p after Holm's correction, in the given order.

    Those of at most α are the ones that Holm's procedure rejects (Holm 1979, Scandinavian Journal
    of Statistics 6:65). Raises ValueError for p outside 0..1.
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p: found {bad[0]}, expected a number between 0 and 1")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def detectable(sd: float, pairs: int, power: float = 0.8, alpha: float = ALPHA) -> float:
    """Return the smallest true difference that a paired t test finds with this power.

    `sd` is the standard deviation of the differences, `pairs` the number of independent pairs. For
    crossed seeds, use the square root of the sum of the `spreads` of the differences, and the
    smaller number of seeds that is above one; the result is then conservative. The test is
    two-sided at `alpha`; with m methods, alpha/m is the strictest step of Holm's correction. Raises
    ValueError for fewer than two pairs.
    """
    _check(sd, power, alpha)
    if pairs < 2:
        raise ValueError(f"pairs: found {pairs}, expected at least 2; one pair has no spread")
    from scipy.optimize import brentq

    shift = 1.0  # noncentrality: difference / (sd / sqrt(pairs))
    while _power(shift, pairs, alpha) < power:
        shift *= 2
    return brentq(lambda x: _power(x, pairs, alpha) - power, 0, shift) * sd / math.sqrt(pairs)


def pairs_needed(sd: float, difference: float, power: float = 0.8, alpha: float = ALPHA) -> int:
    """Return how many pairs a paired t test needs to find `difference`, at least `MIN_UNITS`.

    The inverse of `detectable`; see there for the arguments. Raises ValueError for a difference
    that is 0 or not finite.
    """
    _check(sd, power, alpha)
    if not 0 < abs(difference) < math.inf:
        raise ValueError(f"difference: found {difference}, expected a finite number other than 0")

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
        raise ValueError(f"sd: found {sd}, expected a finite number of at least 0")
    if not 1e-5 <= alpha < power < 1:
        raise ValueError(
            f"alpha and power: found {alpha} and {power}, expected 1e-5 <= alpha < power < 1"
        )


def _power(shift: float, pairs: int, alpha: float) -> float:
    """Return P(T > t) for a noncentral T with n − 1 degrees of freedom and t's bound at `alpha`."""
    from scipy.special import nctdtr, stdtrit

    below = nctdtr(pairs - 1, shift, -stdtrit(pairs - 1, alpha / 2))
    return 1.0 if math.isnan(below) else 1 - float(below)  # NaN: less than 1e-6
