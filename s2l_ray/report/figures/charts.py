"""The charts of a run's page: each from `ReportData`, None if there is nothing to show."""

from __future__ import annotations

import numpy as np

from s2l_ray.analysis.paired import paired
from s2l_ray.analysis.statistics import MIN_UNITS, interval
from s2l_ray.config import BASELINE
from s2l_ray.formatting import MISSING, measured, plural, plus_minus, share, signed, with_interval
from s2l_ray.report.data import ReportData, evaluated_sources
from s2l_ray.report.figures.parts import (
    OTHERS,
    Chart,
    Key,
    Mark,
    Row,
    Tone,
    link,
)
from s2l_ray.report.figures.scale import linear
from s2l_ray.report.html import name
from s2l_ray.report.verdict import Summary, differences, summarize

MAX_SOURCES = 16  # rows; the others are one row together
MAX_FOREST = 40  # rows of differences by source
ALIKE = 0.02  # total variation distance below which two mixes are called alike


def sources(data: ReportData) -> Chart | None:
    """Compare the share of each source in the corpus and in the subset."""
    corpus, subset = data.corpus_by_source, data.subset_by_source or {}
    names = corpus.keys() | subset.keys()
    if not data.n_corpus or not data.n_subset or len(names) < 2:
        return None
    shares = {
        each: (corpus.get(each, 0) / data.n_corpus, subset.get(each, 0) / data.n_subset)
        for each in sorted(names, key=lambda each: (-corpus.get(each, 0), each))
    }
    shown = dict(list(shares.items())[:MAX_SOURCES])
    if rest := list(shares.values())[MAX_SOURCES:]:
        shown[f"{len(rest):,} other sources"] = (sum(a for a, _ in rest), sum(b for _, b in rest))
    axis = linear([100 * each for pair in shown.values() for each in pair], include=[0])
    rows = []
    for source, (before, after) in shown.items():
        at = axis.at(100 * before), axis.at(100 * after)
        marks = [link("grey", *at), Mark("dot", "grey", at[0]), Mark("diamond", "main", at[1])]
        rows.append(Row(source, marks, [share(before), share(after)]))
    return Chart(
        title=_mix_title(shares),
        caption="Share of examples by source, the largest of the corpus first.",
        names="Source",
        axis="share of examples (%)",
        ticks=axis.ticks,
        heads=["Corpus", "Subset"],
        rows=rows,
        legend=[Key("dot", "grey", "corpus"), Key("diamond", "main", "subset")],
    )


def _mix_title(shares: dict[str, tuple[float, float]]) -> str:
    moved = sum(abs(after - before) for before, after in shares.values()) / 2
    if moved < ALIKE:
        return "The subset has nearly the corpus’s mix of sources"
    most, (before, after) = max(
        shares.items(), key=lambda item: round(abs(item[1][1] - item[1][0]), 9)
    )
    word = "grows" if after > before else "shrinks"
    return f"{name(most)} {word} from {share(before)} of the corpus to {share(after)} of the subset"


def selectors(data: ReportData) -> Chart | None:
    """Compare the held-out losses of the selectors, seed by seed."""
    found = summarize(data.arms, baseline=BASELINE)
    means = {row.selector: row.mean for row in found if row.mean is not None}
    losses = [arm.loss for arm in data.arms if np.isfinite(arm.loss)]
    if not means or not losses:
        return None
    axis = linear(losses)
    rows = []
    for row in found:
        tone = tone_of(data, row.selector)
        mine = [arm.loss for arm in data.arms if arm.selector == row.selector]
        marks = [Mark("faint", tone, axis.at(loss)) for loss in mine if np.isfinite(loss)]
        if row.mean is not None and np.isfinite(row.mean):
            marks.append(Mark("diamond", tone, axis.at(row.mean)))
        cells = [plus_minus(row.mean, row.standard_error), _difference(row)]
        rows.append(Row(row.selector, marks, cells))
    best = min(means, key=lambda each: means[each] if np.isfinite(means[each]) else np.inf)
    return Chart(
        title=f"{name(best)} has the lowest held-out loss: {measured(means[best])} nats per token",
        caption="Held-out loss: a dot per seed, a diamond for their mean; lower is better. Numbers "
        "are mean ± standard error over seeds; differences are paired by seed.",
        names="Selector",
        axis="held-out loss (nats per response token)",
        ticks=axis.ticks,
        heads=["Loss", f"Difference to {BASELINE}"],
        rows=rows,
    )


def _difference(row: Summary) -> str:
    if row.selector == BASELINE:
        return "baseline"
    if row.difference is None:
        return MISSING
    error = row.difference_error
    return signed(row.difference) + ("" if error is None else f" ± {measured(error, 2)}")


def differences_by_source(data: ReportData) -> Chart | None:
    """Show the paired difference in held-out loss to the baseline, by source."""
    pairs = paired(data.arms, data.selector, BASELINE)
    by_source = {source: differences(pairs, source) for source in evaluated_sources(data)}
    found = {source: values for source, values in by_source.items() if values}
    if not found:
        return None
    over_all = {"all sources": differences(pairs)} if differences(pairs) and len(found) > 1 else {}
    n_lower = sum(1 for values in found.values() if sum(values) < 0)
    caption = (
        f"Held-out loss of {name(data.selector)} minus that of {BASELINE}: a dot per seed, a "
        "diamond for the mean. Left of the line is better."
    )
    if any(len(values) >= MIN_UNITS for values in found.values()):
        caption += " Bars are 95% intervals, not corrected for the number of sources."
    shown = over_all | dict(list(found.items())[:MAX_FOREST])
    if len(found) > MAX_FOREST:
        caption += f" The {MAX_FOREST} largest of {plural(len(found), 'source')}."
    return forest(
        shown,
        title=f"{name(data.selector)} has a lower loss than {BASELINE} on {n_lower:,} of "
        f"{plural(len(found), 'source')}",
        caption=caption,
        names="Source",
        axis=f"loss of {name(data.selector)} − loss of {BASELINE}",
    )


def forest(
    values: dict[str, list[float]], *, title: str, caption: str, names: str, axis: str
) -> Chart:
    """Show differences by name: each one, their mean, and its 95% interval from `MIN_UNITS`."""
    intervals = {row: interval(found) for row, found in values.items()}
    ends = [
        each
        for row, found in values.items()
        for each in (*found, *(_ends(intervals[row]) if len(found) >= MIN_UNITS else ()))
    ]
    scale = linear(ends, include=[0])
    rows = []
    for row, found in values.items():
        mean, _, low, high, _ = intervals[row]
        assert mean is not None, "a row has values"
        tone: Tone = "main" if mean < 0 else "worse"
        marks = [Mark("faint", tone, scale.at(each)) for each in found]
        told = signed(mean)
        if len(found) >= MIN_UNITS and low is not None and high is not None:
            marks.append(Mark("bar", tone, scale.at(low), scale.at(high)))
            told = with_interval(mean, low, high)
        marks.append(Mark("diamond", tone, scale.at(mean)))
        rows.append(Row(row, marks, [told]))
    return Chart(
        title=title,
        caption=caption,
        names=names,
        axis=axis,
        ticks=scale.ticks,
        heads=["Difference"],
        rows=rows,
        zero=scale.at(0),
    )


def _ends(found: tuple[float | None, ...]) -> list[float]:
    return [each for each in found[2:4] if each is not None]


def tone_of(data: ReportData, selector: str) -> Tone:
    """Return a selector's colour, the same in all figures."""
    if selector in (data.selector, BASELINE):
        return "main" if selector == data.selector else "grey"
    names = [*(arm.selector for arm in data.arms), *(found.name for found in data.curves)]
    others = sorted(set(names) - {data.selector, BASELINE, "proxy"})
    return OTHERS[others.index(selector) % len(OTHERS)]
