"""The figure of a comparison's page."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from s2l_ray.analysis.paired import Row
from s2l_ray.report.figures.axes import GREY, MAIN, WORSE, name_rows
from s2l_ray.report.figures.svg import INK, to_svg


def forest(rows: Sequence[Row], name: str) -> str:
    """Paired differences of methods to the baseline, with their 95% intervals."""
    shown = [
        (row, row.difference.mean)
        for row in rows
        if row.verdict is not None and row.difference.mean is not None
    ]
    if not shown:
        return ""
    colors = {"better": MAIN, "worse": WORSE}

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for place, (row, mean) in enumerate(shown):
            low, high = row.difference.low, row.difference.high
            reach = None if low is None or high is None else [[mean - low], [high - mean]]
            axes.errorbar(
                mean, place, xerr=reach, fmt="D", color=colors.get(row.verdict or "", GREY),
                capsize=4, linewidth=2, markersize=7,
            )  # fmt: skip
        name_rows(axes, [row.method for row, _ in shown])
        axes.set_xlabel("difference to the baseline (nats per token)")

    aria_label = "Difference of each method to the baseline"
    return to_svg(draw, name=name, height=1.0 + 0.36 * len(shown), aria_label=aria_label)
