"""The figures of a diagnosis's page. Shape suffix: K groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.formatting import MISSING, measured, share
from s2l_ray.report.figures.parts import Chart, Key, Line, Mark, Plot, Row, Tone, curve, link
from s2l_ray.report.figures.scale import linear
from s2l_ray.report.html import name

if TYPE_CHECKING:
    from s2l_ray.report.diagnosis_text import Variant

MAX_POINTS = 400  # of a curve of purities


def overlaps(rows: Sequence[Variant]) -> Chart:
    """Show the overlap of each variant's subset with the run's, beside that of chance."""
    axis = linear([each for row in rows for each in (row.jaccard, row.by_chance)], include=[0])
    known = [row for row in rows[1:] if row.kept is not None]
    told = measured(rows[0].jaccard), measured(rows[0].by_chance)
    title = f"Another draw overlaps the run’s subset by {told[0]}, chance by {told[1]}"
    if known:
        worst = min(known, key=lambda row: row.kept or 0.0)
        title = f"The subset changes most with {_named(worst)}: overlap {measured(worst.jaccard)}"
    return Chart(
        title=title,
        caption="Jaccard index of each variant’s subset with the run’s. Each also draws again, so "
        "“draw” is the most that can be expected. Kept: its share beyond chance.",
        names="Changed",
        axis="overlap (Jaccard index)",
        ticks=axis.ticks,
        heads=["Overlap", "Kept"],
        rows=[
            Row(
                _named(row),
                [
                    link("grey", axis.at(row.by_chance), axis.at(row.jaccard)),
                    Mark("dot", "grey", axis.at(row.by_chance)),
                    Mark("diamond", "main", axis.at(row.jaccard)),
                ],
                [measured(row.jaccard), MISSING if row.kept is None else share(row.kept)],
            )
            for row in rows
        ],
        legend=[Key("dot", "grey", "chance"), Key("diamond", "main", "variant")],
    )


def partitions(rows: Sequence[Variant]) -> Chart:
    """Show the agreement of each variant's clusters with the run's, beside that of loss strata."""
    shown = rows[1:]
    axis = linear([0, 1])
    title = "No variant has other clusters"
    if shown:
        lowest = min(shown, key=lambda row: row.adjusted_rand)
        title = (
            f"The clusters change most with {_named(lowest)}: adjusted Rand index "
            f"{measured(lowest.adjusted_rand, 2)}"
        )
    return Chart(
        title=title,
        caption="Adjusted Rand index with the run’s clusters; 1 is the same, 0 is chance. Strata "
        "of the mean loss are the control.",
        names="Changed",
        axis="agreement (adjusted Rand index)",
        ticks=axis.ticks,
        heads=["Clusters", "Strata"],
        rows=[
            Row(
                _named(row),
                [
                    Mark("dot", "grey", axis.at(row.strata_adjusted_rand)),
                    Mark("diamond", "main", axis.at(row.adjusted_rand)),
                ],
                [measured(row.adjusted_rand, 2), measured(row.strata_adjusted_rand, 2)],
            )
            for row in shown
        ],
        legend=[Key("diamond", "main", "clusters"), Key("dot", "grey", "strata of the mean loss")],
    )


def inclusion(rows: Sequence[Variant]) -> Chart | None:
    """Show how the probabilities to be chosen correlate with the run's, and the draw noise."""
    shown = {row: row.correlation for row in rows[1:] if row.correlation is not None}
    if not shown:
        return None
    axis = linear(shown.values(), include=[0, 1])
    least, noise = measured(min(shown.values())), share(min(row.draw_noise for row in shown))
    return Chart(
        title=f"Inclusion probabilities correlate at {least} or more; the draw explains {noise} "
        f"or more of the change",
        caption="Correlation of each example’s probability to be chosen with the run’s. Draw "
        "noise: the share of the difference between subsets that redrawing alone makes.",
        names="Changed",
        axis="correlation of inclusion probabilities",
        ticks=axis.ticks,
        heads=["Inclusion", "Draw noise"],
        rows=[
            Row(
                _named(row),
                [link("grey", axis.at(each), axis.at(1)), Mark("diamond", "main", axis.at(each))],
                [measured(each), share(row.draw_noise)],
            )
            for row, each in shown.items()
        ],
    )


def _named(row: Variant) -> str:
    return f"{row.changed} {name(row.to)}"


def purities(purity: Mapping[str, Any] | None) -> Plot | None:
    """Plot the share of the most common topic in each group, the purest groups first.

    The width of a group is its share of the examples. purity: from pipeline.diagnosis.diagnose.
    """
    if purity is None:
        return None
    groups: tuple[tuple[str, str, Tone], ...] = (
        ("trajectories", "clusters of trajectories", "main"),
        ("features", "clusters of features", "other3"),
        ("random", "random groups", "grey"),
    )
    x, y = linear([0, 100], most=5), linear([0, 100], most=5)
    lines = []
    for key, _, tone in groups:
        shares_K, sizes_K = (np.asarray(purity[key][each]) for each in ("shares_K", "sizes_K"))
        order = np.argsort(-shares_K, kind="stable")
        ends_K = 100 * np.cumsum(sizes_K[order]) / sizes_K.sum()
        heights_K = 100 * shares_K[order]
        at = np.unique(np.linspace(0, len(order) - 1, min(len(order), MAX_POINTS)).astype(int))
        points = [(0.0, heights_K[0]), *zip(ends_K[at], heights_K[at], strict=True)]
        lines.append(Line("line", tone, curve(x, y, points)))
    corpus = 100 * purity["largest"]
    lines.append(Line("dashed", "ink", curve(x, y, [(0, corpus), (100, corpus)])))
    mine, random = (purity[key]["mean"] for key in ("trajectories", "random"))
    return Plot(
        title=f"The most common topic makes up {share(mine)} of a cluster, {share(random)} of a "
        "random group",
        caption="Share of the most common topic in each group, the purest groups first. The width "
        "of a group is its share of the examples.",
        x_label="examples, purest groups first (%)",
        y_label="most common topic (%)",
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        lines=lines,
        legend=[
            *(Key("line", tone, text) for _, text, tone in groups),
            Key("dashed", "ink", "corpus"),
        ],
    )
