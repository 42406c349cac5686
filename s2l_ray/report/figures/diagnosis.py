"""The figure of a diagnosis's page. Shape suffix: K groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from s2l_ray.report.figures.axes import GREY, MAIN, OTHERS, legend
from s2l_ray.report.figures.svg import INK, to_svg


def purities(purity: Mapping[str, Any]) -> str:
    """Draw the share of the most common topic in each group, the purest groups first.

    The width of a group is its share of the examples. purity: from pipeline.diagnosis.diagnose.
    """
    groups = (
        ("trajectories", "clusters of trajectories", MAIN),
        ("features", "clusters of features", OTHERS[2]),
        ("random", "random groups", GREY),
    )

    def draw(axes: Axes) -> None:
        for name, text, color in groups:
            shares_K, sizes_K = (np.asarray(purity[name][key]) for key in ("shares_K", "sizes_K"))
            order = np.argsort(-shares_K, kind="stable")
            edges = np.cumsum([0, *sizes_K[order]]) / sizes_K.sum()
            line = axes.stairs(100 * shares_K[order], 100 * edges, baseline=None, label=text)
            line.set(color=color, linewidth=2)
        axes.axhline(100 * purity["largest"], color=INK, linestyle=":", label="corpus")
        axes.set(xlim=(0, 100), ylim=(0, 102))
        axes.set_xlabel("examples, purest groups first (%)")
        axes.set_ylabel("most common topic (%)")
        legend(axes)

    aria_label = "Share of the most common topic in clusters and in random groups"
    return to_svg(draw, name="purities", height=3.4, aria_label=aria_label)
