"""Axes: from values to percent of a plot, and the ticks to label."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from s2l_ray.formatting import measured

MAX_DECADES_LINEAR = 1.3  # values that span more get a logarithmic axis
NO_RANGE = 1e-9  # relative; a narrower range is one value


class Tick(NamedTuple):
    at: float  # percent
    text: str


class Scale(NamedTuple):
    """An axis from `low` to `high`; logarithmic from `low` > 0 if `log`."""

    low: float
    high: float
    ticks: list[Tick]
    log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value in percent, at most at the ends of the axis."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = (math.log(max(each, self.low)) for each in (low, high, value))
        share = (value - low) / (high - low)
        return round(100 * min(1.0, max(0.0, share)), 2)


def linear(values: Iterable[float], *, most: int = 7, include: Iterable[float] = ()) -> Scale:
    """Return an axis over the finite values and `include`, that ends at round numbers."""
    found = [value for value in (*values, *include) if math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if high - low <= NO_RANGE * max(abs(low), abs(high)):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    step = _step((high - low) / most)
    first, last = math.floor(low / step + NO_RANGE), math.ceil(high / step - NO_RANGE)
    low, high = first * step, last * step
    decimals = max(0, -math.floor(math.log10(step)))
    ticks = [
        Tick(round(100 * (i - first) / (last - first), 2), _text(i * step, decimals))
        for i in range(first, last + 1)
    ]
    return Scale(low, high, ticks)


def logarithmic(values: Iterable[float]) -> Scale:
    """Return a logarithmic axis over the positive, finite values."""
    found = [value for value in values if math.isfinite(value) and value > 0]
    low, high = min(found, default=1.0) / 1.2, max(found, default=1.0) * 1.2
    scale = Scale(low, high, [], log=True)
    decades = math.log10(high / low)
    subs = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
    marks = [
        sub * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for sub in subs
    ]
    ticks = [Tick(scale.at(mark), measured_tick(mark)) for mark in marks if low <= mark <= high]
    return scale._replace(ticks=ticks)


def fitting(values: Iterable[float]) -> Scale:
    """Return a linear axis, or a logarithmic one if the values are positive and span too much."""
    found = [value for value in values if math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if low > 0 and math.log10(high / low) > MAX_DECADES_LINEAR:
        return logarithmic(found)
    return linear(found)


def measured_tick(value: float) -> str:
    """Return a round number without zeros at its end."""
    return f"{value:,.0f}" if value >= 1 else measured(value, 1)


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(sub * power for sub in (1, 2, 5, 10) if sub * power >= least * (1 - NO_RANGE))


def _text(value: float, decimals: int) -> str:
    return f"{value + 0.0:,.{decimals}f}".replace("-", "−")
