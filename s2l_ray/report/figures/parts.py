"""What a figure consists of. All places are in percent of its plot, from the left and the bottom.

Texts are untrusted; the template escapes them. A tone names a colour of page.css.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from s2l_ray.report.figures.scale import Scale, Tick

Tone = Literal["main", "grey", "worse", "ink", "other1", "other2", "other3", "other4", "other5"]
MAX_INLINE = 12  # characters of a cell beside a row's name, on a phone
OTHERS: tuple[Tone, ...] = ("other1", "other2", "other3", "other4", "other5")
Kind = Literal[
    "dot", "faint", "diamond", "bar", "block", "link", "left", "right", "line", "dashed", "area"
]


class Mark(NamedTuple):
    """A mark in a row: a point at `start`, or a bar or a link from `start` to `end`."""

    kind: Kind
    tone: Tone
    start: float
    end: float = 0.0

    @property
    def width(self) -> float:
        return round(self.end - self.start, 2)


class Row(NamedTuple):
    name: str
    marks: Sequence[Mark]
    cells: Sequence[str]


class Key(NamedTuple):
    """An entry of a legend."""

    kind: Kind
    tone: Tone
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A table whose rows have marks on a common axis, and their numbers beside them."""

    title: str  # the finding
    caption: str
    names: str  # what a row is, as the head of its column
    axis: str
    ticks: Sequence[Tick]
    heads: Sequence[str]  # of the cells
    rows: Sequence[Row]
    legend: Sequence[Key] = ()
    zero: float | None = None  # place of a vertical line

    @property
    def stacked(self) -> bool:
        """Whether the cells need a line of their own on a phone."""
        return any(len(cell) > MAX_INLINE for row in self.rows for cell in row.cells)


class Line(NamedTuple):
    """A curve, area or set of points of a plot, as the data of an SVG path, 100 by 100."""

    kind: Kind
    tone: Tone
    path: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    title: str  # the finding
    caption: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    legend: Sequence[Key] = field(default=())


def link(tone: Tone, one: float, other: float) -> Mark:
    """Return a thin line between two places, in any order."""
    return Mark("link", tone, min(one, other), max(one, other))


def curve(x: Scale, y: Scale, points: Iterable[tuple[float, float]]) -> str:
    """Return the path through the finite points; a point that is not finite leaves a gap."""
    path, gap = [], True
    for a, b in points:
        if not (math.isfinite(a) and math.isfinite(b)):
            gap = True
            continue
        path.append(f"{'M' if gap else 'L'}{x.at(a):g} {100 - y.at(b):g}")
        gap = False
    if len(path) == 1:
        path.append("h0")  # a round point
    return "".join(path)


def dots(x: Scale, y: Scale, points: Iterable[tuple[float, float]]) -> str:
    """Return a path with a line of no length at each point, which round caps make a dot."""
    return "".join(f"M{x.at(a):g} {100 - y.at(b):g}h0" for a, b in points)


def stairs(x: Scale, y: Scale, edges: np.ndarray, values: np.ndarray, *, closed: bool) -> str:
    """Return the outline of a histogram; `closed` down to the axis, to be filled."""
    steps = [f"M{x.at(edges[0]):g} {100 if closed else 100 - y.at(values[0]):g}"]
    for left, right, value in zip(edges, edges[1:], values, strict=False):
        steps.append(f"L{x.at(left):g} {100 - y.at(value):g}H{x.at(right):g}")
    return "".join(steps) + ("V100Z" if closed else "")
