"""The tables of a comparison of selectors, from the records of its targets.

Records are those of pipeline.comparison.compare, one per target. Each table holds one budget, one
match (what is equal to the baseline: examples, tokens or compute) and one metric. The first table
of a group is that of the primary measure, which alone has verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

from s2l_ray.analysis.decision import Headroom, headroom
from s2l_ray.analysis.measures import ArmRecord, Metric, metrics_of
from s2l_ray.analysis.paired import Outcome, Row, outcomes_of, rows
from s2l_ray.analysis.statistics import spreads
from s2l_ray.analysis.verdicts import caveats, conclusions, judge, num_tested, table
from s2l_ray.analysis.worth import Curve, Worth, worth
from s2l_ray.config import BASELINE, CompareConfig
from s2l_ray.formatting import MISSING, plural, span, with_interval
from s2l_ray.pipeline.arms import IN, OF, times_of
from s2l_ray.selection.selectors import is_built_in, selector_named

RULES = CompareConfig()


class Table(NamedTuple):
    """One metric of the arms of one budget and match."""

    metric: Metric
    rows: list[Row]
    conclusions: list[str]  # the verdicts; none of an exploratory measure
    caveats: list[str]
    controls: list[str]  # differences between selections and their controls
    # Method -> standard deviation over selection seeds and over training seeds; empty if they
    # cannot be separated.
    spreads: dict[str, tuple[float | None, float | None]]
    # Method -> standard error of one pair's difference over the held-out examples, the median of
    # its pairs: in records of an earlier version, whose intervals are over seeds alone.
    errors: dict[str, float]


class Group(NamedTuple):
    """The arms of one budget and match: what they trained on, and a table per metric."""

    budget: str
    match: str
    costs: dict[str, dict[str, str]]  # method -> runs, examples, shared, steps, tokens
    tables: list[Table]  # the primary measure's first
    too_few: list[str]  # selectors with too few candidates, and why
    worth: dict[str, Worth]  # method -> in random data, by the primary measure
    headroom: Headroom  # by the primary measure


def groups_of(records: Sequence[ArmRecord], rules: CompareConfig = RULES) -> list[Group]:
    """Return a group per budget and match, in order of appearance. rules: the primary measure, and
    the margin of equality."""
    keys = dict.fromkeys((record["budget"], record["match"]) for record in records)
    trained = _trained(records)
    primary = metrics_of(trained, rules.primary)[0].key if trained else None
    found = [
        _group(*key, [r for r in records if (r["budget"], r["match"]) == key], rules, primary)
        for key in keys
    ]
    firsts = [group.tables[0] for group in found]
    lower = not firsts or firsts[0].metric.lower_is_better
    tested = num_tested([first.rows for first in firsts])
    judged = judge([first.rows for first in firsts], lower)
    return [
        group._replace(
            tables=[
                first._replace(
                    rows=mine, conclusions=conclusions(mine), caveats=caveats(mine, tested)
                ),
                *group.tables[1:],
            ]
        )
        for group, first, mine in zip(found, firsts, judged, strict=True)
    ]


def _trained(records: Sequence[ArmRecord]) -> list[ArmRecord]:
    return [record for record in records if "too_few" not in record]


def _group(
    budget: str,
    match: str,
    records: Sequence[ArmRecord],
    rules: CompareConfig,
    primary: str | None,
) -> Group:
    too_few = [
        f"Not compared: {r['method']} with selection seed {r['selection_seed']}: {r['too_few']}."
        for r in records
        if "too_few" in r
    ]
    records = _trained(records)
    costs = {}
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        costs[method] = {
            name: span([record[name] for record in mine])
            for name in ("examples", "steps", "trained_tokens")
        }
        costs[method]["shared"] = f"{span([round(100 * record['shared']) for record in mine])}%"
        costs[method]["runs"] = f"{len(mine):,}"
    metrics = metrics_of(records, primary)
    tables = [_table(records, metric, rules, exploratory=n > 0) for n, metric in enumerate(metrics)]
    arms = outcomes_of(records, metrics[0])
    return Group(
        budget,
        match,
        costs,
        tables,
        list(dict.fromkeys(too_few)),
        _worth(records, arms, metrics[0], tables[0].rows),
        headroom(arms, metrics[0]),
    )


def _table(
    records: Sequence[ArmRecord], metric: Metric, rules: CompareConfig, exploratory: bool
) -> Table:
    arms = outcomes_of(records, metric)
    found = rows(arms, metric.key, BASELINE, rules.equivalent)
    if exploratory:
        found = [
            row._replace(verdict="exploratory") if row.verdict == "no verdict" else row
            for row in found
        ]
    parts = {}
    for row in found:
        spread = spreads(
            {
                arm.seeds: value
                for arm in arms
                if arm.selector == row.method and math.isfinite(value := arm.metrics[metric.key])
            }
        )
        parts[row.method] = _root(spread.selection), _root(spread.training)
    if not any(sd is not None for pair in parts.values() for sd in pair):
        parts = {}
    controls = _against_controls(arms, records, metric)
    return Table(metric, found, [], [], controls, parts, _errors(records, metric.key))


def _worth(
    records: Sequence[ArmRecord], arms: Sequence[Outcome], metric: Metric, rows: Sequence[Row]
) -> dict[str, Worth]:
    """Return what each selector is worth in random data, if random was trained on other amounts."""
    by_method: dict[str, list[Outcome]] = {}
    for arm in arms:
        by_method.setdefault(arm.selector, []).append(arm)

    def values(method: str) -> dict[tuple[int, int], float]:
        return {arm.seeds: arm.metrics[metric.key] for arm in by_method[method]}

    def influences(method: str) -> dict[tuple[int, int], Sequence[float]]:
        mine = by_method[method]
        return {a.seeds: a.influences[metric.key] for a in mine if metric.key in a.influences}

    def examples(method: str) -> float:
        return fmean(record["examples"] for record in records if record["method"] == method)

    amounts = [name for name in by_method if name == BASELINE or times_of(name) is not None]
    sizes = {name: examples(name) / examples(BASELINE) for name in amounts}
    curve = Curve(
        {sizes[name]: values(name) for name in amounts},
        {sizes[name]: influences(name) for name in amounts},
    )
    found = {}
    for row in rows:
        if row.verdict is None or row.is_reference:
            continue
        mine = worth(values(row.method), influences(row.method), curve, metric.lower_is_better)
        if mine is not None:
            found[row.method] = mine
    return found


def _against_controls(
    arms: Sequence[Outcome], records: Sequence[ArmRecord], metric: Metric
) -> list[str]:
    """Return sentences with the paired differences between selections and their controls."""
    likes = {record["method"]: record["like"] for record in records if "like" in record}
    found = []
    for control in dict.fromkeys(arm.selector for arm in arms):
        main, words = _controlled(control, likes.get(control, ""))
        pair = (main, control)
        both = [arm for arm in arms if arm.selector in pair]
        if {arm.selector for arm in both} == set(pair):
            compared = table(both, metric.key, control, metric.lower_is_better)
            [row] = [row for row in compared if row.method == main]
            if row.pairs:
                found.append(
                    f"{main} − {control} ({words}): {difference(row)} "
                    f"({plural(row.pairs, 'pair')}, not corrected)."
                )
    return found


def _controlled(control: str, like: str) -> tuple[str, str]:
    """Return the method that this one is a control for, "" if none, and what it keeps. like: of its
    records."""
    main, separator, of = control.partition(IN)
    if separator:
        return main, f"the same selector with {of}'s shares of sources"
    selector = control.partition(OF)[0]
    if not is_built_in(selector):
        return "", ""
    kind = selector_named(selector)
    return like if kind.control_for == "like" else kind.control_for, kind.control_words


def _errors(records: Sequence[ArmRecord], metric: str) -> dict[str, float]:
    """Return method -> median over its pairs of the standard error over held-out examples."""
    found: dict[str, list[float]] = {}
    for record in records:
        error = record.get("errors_over_examples", {}).get(metric)
        if error is not None:
            found.setdefault(record["method"], []).append(error)
    return {method: median(errors) for method, errors in found.items()}


def left_out_of(records: Sequence[ArmRecord]) -> list[str]:
    """Return what was left out of the evaluation, each sentence once."""
    return list(dict.fromkeys(text for record in records for text in record.get("left_out", ())))


def small_sources(group: Group) -> list[str]:
    """Return the metrics of the sources that the primary measure leaves out, in words."""
    if group.tables[0].metric.key != "macro_100":
        return []
    return [
        table.metric.words.removeprefix("held-out loss on ")
        for table in group.tables
        if table.metric.key.startswith("by_source/") and not table.metric.is_large
    ]


def difference(row: Row) -> str:
    """Return the difference to the baseline with its 95% interval."""
    if row.verdict is None:
        return MISSING
    mean, _, low, high, _ = row.difference
    return "not finite" if mean is None else with_interval(mean, low, high)


def _root(variance: float | None) -> float | None:
    return None if variance is None else math.sqrt(variance)


def spreads_of(group: Group, *, examples: bool = False) -> dict[str, tuple[float, int]]:
    """Return method -> standard deviation of the primary measure's difference over seeds, and its
    degrees of freedom.

    A seed's difference is the mean over its trainings. Methods without spread are left out.
    examples: with the error of the evaluation examples, as if seeds caused it.
    """
    found = {}
    for row in group.tables[0].rows:
        error = row.difference.standard_error if examples else row.over_seeds
        if row.units > 1 and error and not row.is_reference:
            found[row.method] = error * math.sqrt(row.units), row.units - 1
    return found


def pooled(spreads: Sequence[tuple[float, int]]) -> float:
    """Pool standard deviations, weighted by their degrees of freedom."""
    return math.sqrt(sum(sd**2 * freedom for sd, freedom in spreads) / sum(f for _, f in spreads))
