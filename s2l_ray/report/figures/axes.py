"""Colours and axes that the figures share.

Okabe and Ito's palette and viridis suit any kind of colour vision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from s2l_ray.analysis.statistics import interval
from s2l_ray.report.figures.svg import label

MAIN, WORSE, GREY = "#0072B2", "#D55E00", "#8a8a8a"
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#D55E00")
MAX_DECADES_LINEAR = 1.3  # losses that span more get a logarithmic axis


def mean_and_error(axes: Axes, values: Sequence[float], row: int, color: str) -> None:
    """Draw the mean of `values` and its standard error."""
    mean, error, *_ = interval(values)
    if mean is not None:
        bar: dict[str, Any] = {"capsize": 4, "linewidth": 2, "markersize": 7, "markeredgewidth": 2}
        axes.errorbar(mean, row, xerr=error, fmt="D", color=color, **bar)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of the y axis, the first on top."""
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def legend(axes: Axes) -> None:
    """Put the legend above the plot, where it hides nothing."""
    handles, texts = axes.get_legend_handles_labels()
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ncols = 2 if max(map(len, texts), default=0) > 12 else 3
    for line in axes.legend(handles, texts, ncols=ncols, **place).get_lines():
        line.set_alpha(1)


def step_axis(axes: Axes, text: str) -> None:
    """Label the x axis and keep its ticks at whole steps."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(text)


def loss_axis(axes: Axes, losses: np.ndarray) -> None:
    """Label the y axis; make it logarithmic if `losses` span too much for a linear one."""
    axes.set_ylabel("loss (nats per token)")
    low, high = np.nanmin([*losses, np.inf]), np.nanmax([*losses, 0])
    if 0 < low < high and np.log10(high / low) > MAX_DECADES_LINEAR:
        log_axis(axes, "y", low, high)


def log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Make the axis "x" or "y" logarithmic with readable ticks; linear below 1 if `low` is 0."""
    axes.set(**{f"{which}scale": "log" if low > 0 else "symlog"})
    axes.set(**{f"{which}lim": (low / 1.5, high * 1.5)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    if low > 0:
        decades = np.log10(high / low)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def finite(values: Sequence) -> np.ndarray:
    """Return floats with infinities as NaN, which a plot leaves out."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isinf(array), np.nan, array)
