"""The figure of a selection's law: where in the corpus, by loss, its subset comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from s2l_ray.analysis.laws import Law
from s2l_ray.analysis.laws_told import headline
from s2l_ray.formatting import measured, share
from s2l_ray.report.figures.parts import Chart, Key, Mark, Row
from s2l_ray.report.figures.scale import linear

if TYPE_CHECKING:
    from s2l_ray.report.data import LawBins


def by_loss(law: Law | None, bins: LawBins | None) -> Chart | None:
    """Show the share of the subset that comes from each tenth of the mean losses."""
    if law is None or bins is None:
        return None
    edges = [measured(edge) for edge in bins.loss_edges]
    shares, chances = law.subset["loss"], law.chance("loss")
    axis = linear([100 * each for each in (*shares, *law.corpus["loss"])], include=[0], most=5)
    return Chart(
        title=headline(law),
        caption="Share of the subset by tenth of the corpus’s mean losses, over all draws. A "
        "uniform draw takes a tenth from each (the line). Chance: of an example there.",
        names="Mean loss",
        axis="share of the subset (%)",
        ticks=axis.ticks,
        heads=["Subset", "Chance"],
        rows=[
            Row(
                bin_name(place, edges),
                [Mark("block", "main", 0.0, axis.at(100 * mine))],
                [share(mine), share(chance)],
            )
            for place, (mine, chance) in enumerate(zip(shares, chances, strict=True))
        ],
        legend=[Key("line", "ink", "uniform draw")],
        zero=axis.at(10),
    )


def bin_name(place: int, edges: Sequence[str]) -> str:
    """Return such as "below 0.31", "0.31 to 0.42" or "0.42 and more"."""
    if place == 0:
        return f"below {edges[0]}"
    if place == len(edges):
        return f"{edges[-1]} and more"
    return f"{edges[place - 1]} to {edges[place]}"


def by_length(law: Law | None, bins: LawBins | None) -> list[tuple[str, float, float, float]]:
    """Return response tokens, shares of corpus and subset, and chance; without empty bins."""
    if law is None or bins is None:
        return []
    edges = [f"{edge:,g}" for edge in bins.length_edges]
    names = [bin_name(place, edges) for place in range(len(edges) + 1)]
    columns = law.corpus["length"], law.subset["length"], law.chance("length")
    return [row for row in zip(names, *columns, strict=True) if row[1]]


def by_source(law: Law | None, bins: LawBins | None) -> dict[str, float]:
    """Return the chance to be chosen by source."""
    if law is None or bins is None:
        return {}
    return dict(zip(bins.sources, law.chance("source"), strict=True))
