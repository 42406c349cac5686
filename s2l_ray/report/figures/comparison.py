"""The figures of a comparison's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from s2l_ray.analysis.paired import Row as Compared
from s2l_ray.config import BASELINE
from s2l_ray.formatting import MISSING, measured, plural
from s2l_ray.report.comparison_tables import Group, Table, difference
from s2l_ray.report.figures.parts import Chart, Key, Mark, Row, Tone
from s2l_ray.report.figures.scale import Scale, linear
from s2l_ray.report.html import name, quoted

MAX_REACH = 5  # an axis ends at the farthest row within so many median reaches
MAX_WORDS = 100  # characters of a measure's name
MAX_ROWS = 40  # of a chart by metric
LEGEND = (
    Key("diamond", "main", "better"),
    Key("diamond", "worse", "worse"),
    Key("diamond", "grey", "no difference shown, or a reference"),
)


class Named(NamedTuple):
    """A row to draw: its name, and a method's comparison."""

    text: str
    row: Compared


def forest(group: Group) -> Chart | None:
    """Show the difference in the primary measure of each method, with its 95% interval."""
    table = group.tables[0]
    rows = [Named(row.method, row) for row in table.rows if row.verdict is not None]
    better = [quoted(row.method) for row in table.rows if row.verdict == "better"]
    tested = [row for row in table.rows if row.adjusted_p is not None]
    methods = [row for row in table.rows if row.verdict is not None and not row.is_reference]
    title = f"No verdict yet on {plural(len(methods), 'method')}"
    if better:
        are = "is" if len(better) == 1 else "are"
        title = f"{', '.join(better[:3])} {are} better than {BASELINE}"
        if len(better) > 3:
            count = f"{len(better):,} of {plural(len(methods), 'method')}"
            title = f"{count} are better than {BASELINE}"
    elif tested:
        title = f"None of {plural(len(tested), 'method')} is better than {BASELINE}"
    side = "Left" if table.metric.lower_is_better else "Right"
    caption = (
        f"Primary measure: {name(table.metric.words, MAX_WORDS)}. Mean difference to {BASELINE} "
        f"over pairs, and its 95% interval over seeds and examples. {side} of the line is better."
    )
    worth = {method: found.words for method, found in group.worth.items()}
    if worth:
        some = next(iter(group.worth.values()))
        caption += (
            f" Worth: so many times as much {BASELINE} data does as well, with a 95% interval; "
            f"measured from ×{some.least:.3g} to ×{some.most:.3g}."
        )
    axis = f"difference to {BASELINE}, {table.metric.unit}"
    return _chart(rows, title, caption, axis, names="Method", legend=LEGEND, worth=worth)


def by_metric(group: Group) -> list[Chart]:
    """Return a chart per method: its difference on each source and other measure of the loss."""
    tables = [table for table in group.tables[1:] if table.metric.lower_is_better]
    methods = [
        row.method
        for row in group.tables[0].rows
        if row.verdict is not None and not row.is_reference
    ]
    found = []
    for method in methods:
        rows = [
            Named(_short(table), row)
            for table in tables
            for row in table.rows
            if row.method == method
        ]
        title = f"{name(method)} by other measures (exploratory)"
        caption = (
            "Difference in loss by source and measure, with 95% intervals. Of many measures some "
            "differ by chance, so there are no verdicts."
        )
        if len(rows) > MAX_ROWS:
            caption += f" The first {MAX_ROWS} of {len(rows):,}."
        axis = f"difference in loss to {BASELINE}"
        if chart := _chart(rows[:MAX_ROWS], title, caption, axis, names="Measure"):
            found.append(chart)
    return found


def _short(table: Table) -> str:
    """Return a metric's words without what all of them begin with."""
    words = table.metric.words
    if table.metric.key == "loss":
        return "all held-out tokens"
    for start in ("held-out loss on ", "held-out loss, "):
        words = words.removeprefix(start)
    return words


def _chart(
    rows: Sequence[Named],
    title: str,
    caption: str,
    axis_title: str,
    *,
    names: str,
    legend: Sequence[Key] = (),
    worth: Mapping[str, str] | None = None,
) -> Chart | None:
    """Draw a row each. worth: in random data, by method; a column, if there are any. A difference
    much larger than most is an arrow at the end of the axis."""
    drawn = [
        each
        for each in rows
        if each.row.difference.mean is not None and math.isfinite(each.row.difference.mean)
    ]
    if not drawn:
        return None
    end = _end([_reach(row) for _, row in drawn])
    axis = linear(
        [end, -end] if any(_reach(row) > end for _, row in drawn) else _all(drawn), include=[0]
    )
    if any(_far(row, end) for _, row in drawn):
        caption += " An arrow marks a mean beyond the axis."
    return Chart(
        title=title,
        caption=caption,
        names=names,
        axis=axis_title,
        ticks=axis.ticks,
        heads=["Difference [95% interval]", *(["Worth"] if worth else []), "Verdict (p, Holm)"],
        rows=[
            Row(
                text,
                _marks(row, axis, end),
                _cells(row, worth.get(row.method, MISSING) if worth else None),
            )
            for text, row in drawn
        ],
        legend=list(legend),
        zero=axis.at(0),
    )


def _marks(row: Compared, axis: Scale, end: float) -> list[Mark]:
    mean, _, low, high, _ = row.difference
    assert mean is not None, "only rows with a mean are drawn"
    tones: dict[str, Tone] = {"better": "main", "worse": "worse"}
    tone = tones.get(row.verdict or "", "grey")
    if _far(row, end):
        return [Mark("left" if mean < 0 else "right", tone, axis.at(mean))]
    marks = [Mark("diamond", tone, axis.at(mean))]
    if low is not None and high is not None:
        marks.insert(0, Mark("bar", tone, axis.at(low), axis.at(high)))
    return marks


def _cells(row: Compared, worth: str | None) -> list[str]:
    p = row.p_of_verdict
    told = "" if p is None else " (< 0.001)" if p < 0.001 else f" ({measured(p, 2)})"
    return [difference(row), *([worth] if worth else []), f"{row.verdict}{told}"]


def _all(drawn: Sequence[Named]) -> list[float]:
    return [
        x for _, row in drawn for x in (row.difference[0], *row.difference[2:4]) if x is not None
    ]


def _far(row: Compared, end: float) -> bool:
    return abs(row.difference.mean or 0.0) > end


def _reach(row: Compared) -> float:
    """The distance from zero to the far end of the row's interval."""
    return max(abs(x) for x in row.difference[:1] + row.difference[2:4] if x is not None)


def _end(reaches: Sequence[float]) -> float:
    most = MAX_REACH * median(reaches)
    return max(reach for reach in reaches if reach <= most)
