"""What a selection is worth in random examples: the m at which m times as many do as well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.analysis import examples
from s2l_ray.analysis.statistics import ALPHA, Seeds, mean_of
from s2l_ray.formatting import measured

POINTS = 101  # at which the interval is tested, evenly spaced in log m

Values = Mapping[Seeds, float]
Influences = Mapping[Seeds, Sequence[float]]  # of groups of examples (analysis.examples)


class Worth(NamedTuple):
    """How many times as much random data does as well, with a 95% interval.

    Random was measured from `least` to `most` times the budget. 0 stands for below that, infinity
    for above.
    """

    times: float
    low: float
    high: float
    least: float
    most: float

    @property
    def words(self) -> str:
        """Such as "×1.08 [0.92, 1.31]", or "below 0.5 [below 0.5, 0.7]"."""
        sign = "×" if 0 < self.times < math.inf else ""
        times, low, high = map(self._told, (self.times, self.low, self.high))
        return f"{sign}{times} [{low}, {high}]"

    def _told(self, times: float) -> str:
        if times == 0:
            return f"below {self.least:.3g}"
        return f"above {self.most:.3g}" if times == math.inf else measured(times)


class Curve(NamedTuple):
    """A measure of random subsets by their size. values: size in units of the budget -> values;
    influences: the same, empty if they are not known."""

    values: Mapping[float, Values]
    influences: Mapping[float, Influences]


def worth(
    mine: Values, influences: Influences, random: Curve, lower_is_better: bool = True
) -> Worth | None:
    """Return what a selector's values are worth in random data. None for fewer than two sizes of
    random, fewer than two seeds that all have, or values of random that are equal at all sizes.

    Between two sizes, each seed's value of random is linear in log m. m is where the mean over
    seeds of random at m is that of the selector. The interval has each m at which a paired test
    (statistics.interval: seeds, and examples if their influences are known) does not tell the two
    apart at 5% (Fieller's method), so a flat curve gives a wide interval, not a wrong one. What
    lies outside the sizes that were measured is not extrapolated.
    """
    sizes = sorted(random.values)
    if len(sizes) < 2:
        return None
    shared = set(mine).intersection(*(random.values[size] for size in sizes))
    seeds = sorted(
        each
        for each in shared
        if math.isfinite(mine[each] + sum(random.values[size][each] for size in sizes))
    )
    at = [[random.values[size][each] for each in seeds] for size in sizes]
    if len(seeds) < 2 or all(values == at[0] for values in at):
        return None
    known = all(
        each in influences and all(each in random.influences.get(size, {}) for size in sizes)
        for each in seeds
    )
    sign = 1.0 if lower_is_better else -1.0
    grid = np.unique([*np.geomspace(sizes[0], sizes[-1], POINTS), *sizes])
    gains, open_to = [], []
    for m in grid:
        after = min(max(1, int(np.searchsorted(sizes, m))), len(sizes) - 1)
        low, high = sizes[after - 1], sizes[after]
        share = math.log(m / low) / math.log(high / low)
        found = {
            each: sign
            * (_between(random.values[low][each], random.values[high][each], share) - mine[each])
            for each in seeds
        }
        over_examples = None
        if known:
            over_examples = examples.shared(
                {
                    each: _between(
                        np.asarray(random.influences[low][each]),
                        np.asarray(random.influences[high][each]),
                        share,
                    )
                    - np.asarray(influences[each])
                    for each in seeds
                }
            )
        mean = mean_of(found.values(), found, over_examples)
        assert mean is not None  # two seeds or more
        gains.append(mean.mean)
        open_to.append(abs(mean.mean) <= mean.half_width(ALPHA))
    times = _crossing(grid, gains)
    accepted = np.flatnonzero(open_to)
    if not len(accepted):
        low = high = times  # between two points, or beyond the ends
    else:
        low = 0.0 if accepted[0] == 0 else float(grid[accepted[0]])
        high = math.inf if accepted[-1] == len(grid) - 1 else float(grid[accepted[-1]])
    return Worth(times, low, high, sizes[0], sizes[-1])


def _between(low: Any, high: Any, share: float) -> Any:  # of numbers or arrays
    return (1 - share) * low + share * high


def _crossing(grid: np.ndarray, gains: Sequence[float]) -> float:
    """Return where the gain over random falls to zero: 0 or infinity beyond the ends."""
    if gains[0] < 0:
        return 0.0
    for place in range(1, len(grid)):
        if gains[place] <= 0 < gains[place - 1] or gains[place] < 0 <= gains[place - 1]:
            share = gains[place - 1] / (gains[place - 1] - gains[place])
            low, high = (math.log(each) for each in grid[place - 1 : place + 1])
            return math.exp(_between(low, high, share))
    return math.inf
