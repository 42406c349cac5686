"""The figure of a comparison's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes

from s2l_ray.analysis.paired import Row
from s2l_ray.formatting import signed
from s2l_ray.report.figures.axes import GREY, MAIN, WORSE, name_rows
from s2l_ray.report.figures.svg import INK, to_svg

MAX_REACH = 5  # an axis ends at the farthest method within so many median reaches


def forest(rows: Sequence[Row], baseline: str, name: str) -> str:
    """Draw the paired differences of methods to the baseline with their 95% intervals.

    A difference much larger than most is an arrow with its number at the end of the axis, so that
    the others remain readable.
    """
    shown = [
        (row, row.difference.mean)
        for row in rows
        if row.verdict is not None
        and row.difference.mean is not None
        and math.isfinite(row.difference.mean)
    ]
    if not shown:
        return ""
    end = _end([_reach(row) for row, _ in shown])
    colors = {"better": MAIN, "worse": WORSE}

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for place, (row, mean) in enumerate(shown):
            color = colors.get(row.verdict or "", GREY)
            if abs(mean) > end:
                left = mean < 0
                axes.plot(math.copysign(end, mean), place, "<" if left else ">", color=color)
                axes.annotate(
                    signed(mean), (math.copysign(end, mean), place), (8 if left else -8, 0),
                    textcoords="offset points", va="center", ha="left" if left else "right",
                )  # fmt: skip
                continue
            low, high = row.difference.low, row.difference.high
            error = None if low is None or high is None else [[mean - low], [high - mean]]
            axes.errorbar(
                mean, place, xerr=error, fmt="D", color=color, capsize=4, linewidth=2, markersize=7
            )
        if any(_reach(row) > end for row, _ in shown):
            axes.set_xlim(-1.05 * end, 1.05 * end)
        name_rows(axes, [row.method for row, _ in shown])
        axes.set_xlabel(f"difference to {baseline}")

    aria_label = f"Difference of each method to {baseline}, with 95% intervals"
    return to_svg(draw, name=name, height=1.0 + 0.36 * len(shown), aria_label=aria_label)


def _reach(row: Row) -> float:
    """The distance from zero to the far end of the row's interval."""
    return max(abs(x) for x in row.difference[:1] + row.difference[2:4] if x is not None)


def _end(reaches: Sequence[float]) -> float:
    most = MAX_REACH * median(reaches)
    return max(reach for reach in reaches if reach <= most)
