"""Whether two selectors are as good as equal, and an exact test of few pairs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import product

from s2l_ray.analysis.statistics import ALPHA, OverExamples, Seeds, mean_of

MOST_FLIPPED = 16  # values; 65,536 sums


def p_of_equality(
    values: Iterable[float],
    margin: float,
    seeds: Iterable[Seeds] | None = None,
    examples: OverExamples | None = None,
) -> float | None:
    """Return p of two one-sided tests (Schuirmann 1987, Journal of Pharmacokinetics and
    Biopharmaceutics 15:657): of |true mean| >= margin. At p <= α the mean is within the margin.

    The larger of the two, which is that of the nearer end. The errors are those of
    statistics.interval. None for values without spread, and for a margin that is not finite.
    """
    found = mean_of(values, seeds, examples)
    if found is None or not found.has_spread or not math.isfinite(found.mean):
        return None
    if not math.isfinite(margin):
        return None
    room = margin - abs(found.mean)
    half = found.p_value(room) / 2
    return half if room > 0 else 1 - half


def least_margin(
    values: Iterable[float],
    seeds: Iterable[Seeds] | None = None,
    examples: OverExamples | None = None,
    alpha: float = ALPHA,
) -> float | None:
    """Return the smallest margin with p_of_equality <= alpha: the far end of the interval that
    misses with probability 2·alpha. None for values without spread."""
    found = mean_of(values, seeds, examples)
    if found is None or not found.has_spread or not math.isfinite(found.mean):
        return None
    return abs(found.mean) + found.half_width(2 * alpha)


def p_of_signs(values: Mapping[Seeds, float]) -> float | None:
    """Return the exact two-sided p of a mean of zero, from all ways to flip the values' signs.

    Assumes only that each value is as likely to be d as −d. Values that share a seed flip together.
    p is the share of sign patterns whose sum is at least as far from zero, so n values that agree
    in sign have p = 2/2^n at best. None for fewer than two values, or more than `MOST_FLIPPED`.
    """
    kinds = [len({seeds[kind] for seeds in values}) for kind in (0, 1)]
    kind = kinds.index(min(kinds))
    sums: dict[int, float] = defaultdict(float)
    for seeds, value in values.items():
        sums[seeds[kind]] += value
    if not 2 <= len(sums) <= MOST_FLIPPED:
        return None
    seen = abs(math.fsum(sums.values()))
    least = seen - 1e-9 * math.fsum(map(abs, sums.values()))  # what rounding leaves of a tie
    flipped = [
        abs(math.fsum(sign * value for sign, value in zip(signs, sums.values(), strict=True)))
        for signs in product((1, -1), repeat=len(sums) - 1)  # the first as it is: by symmetry
        for signs in [(1, *signs)]
    ]
    return sum(each >= least for each in flipped) / len(flipped)
