"""The tables of a comparison of selectors, from the records of its targets.

Records are those of pipeline.comparison.compare, one per target. Each table holds one budget, one
match (what is equal to the baseline: examples, tokens or compute) and one metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from s2l_ray.analysis.measures import ArmRecord, Metric, metrics_of, value_of
from s2l_ray.analysis.paired import Outcome, Row, caveats, conclusions, table
from s2l_ray.analysis.statistics import spreads
from s2l_ray.config import BASELINE, BUILT_IN_SELECTORS
from s2l_ray.formatting import MISSING, plural, span, with_interval
from s2l_ray.selection.selectors import selector_named


class Table(NamedTuple):
    """One metric of the arms of one budget and match."""

    metric: Metric
    rows: list[Row]
    conclusions: list[str]  # the verdicts
    caveats: list[str]
    controls: list[str]  # differences between selections and their controls
    # Method -> standard deviation over selection seeds and over training seeds; empty if they
    # cannot be separated.
    spreads: dict[str, tuple[float | None, float | None]]
    # Method -> standard error of one pair's difference over the held-out examples, the median of
    # its pairs. Known for the loss and its mean over sources.
    errors: dict[str, float]


class Group(NamedTuple):
    """The arms of one budget and match: what they trained on, and a table per metric."""

    budget: str
    match: str
    costs: dict[str, dict[str, str]]  # method -> runs, examples, shared, steps, tokens
    tables: list[Table]
    too_few: list[str]  # selectors with too few candidates, and why


def groups_of(records: Sequence[ArmRecord]) -> list[Group]:
    """Return a group per budget and match, in order of appearance."""
    keys = dict.fromkeys((record["budget"], record["match"]) for record in records)
    return [_group(*key, [r for r in records if (r["budget"], r["match"]) == key]) for key in keys]


def _group(budget: str, match: str, records: Sequence[ArmRecord]) -> Group:
    too_few = [
        f"Not compared: {r['method']} with selection seed {r['selection_seed']}: {r['too_few']}."
        for r in records
        if "too_few" in r
    ]
    records = [record for record in records if "too_few" not in record]
    costs = {}
    for method in dict.fromkeys(record["method"] for record in records):
        mine = [record for record in records if record["method"] == method]
        costs[method] = {
            name: span([record[name] for record in mine])
            for name in ("examples", "steps", "trained_tokens")
        }
        costs[method]["shared"] = f"{span([round(100 * record['shared']) for record in mine])}%"
        costs[method]["runs"] = f"{len(mine):,}"
    tables = []
    for metric in metrics_of(records):
        arms = [
            Outcome(r["method"], budget, r["selection_seed"], r["training_seed"],
                    {metric.key: value_of(r, metric.key)})
            for r in records
        ]  # fmt: skip
        rows = table(arms, metric.key, BASELINE, metric.lower_is_better)
        parts = {}
        for row in rows:
            found = spreads(
                {
                    arm.seeds: value
                    for arm in arms
                    if arm.selector == row.method
                    and math.isfinite(value := arm.metrics[metric.key])
                }
            )
            parts[row.method] = _root(found.selection), _root(found.training)
        if not any(sd is not None for pair in parts.values() for sd in pair):
            parts = {}
        tables.append(
            Table(
                metric=metric,
                rows=rows,
                conclusions=conclusions(rows),
                caveats=caveats(rows),
                controls=_against_controls(arms, records, metric),
                spreads=parts,
                errors=_errors(records, metric.key),
            )
        )
    return Group(budget, match, costs, tables, list(dict.fromkeys(too_few)))


def _against_controls(
    arms: Sequence[Outcome], records: Sequence[ArmRecord], metric: Metric
) -> list[str]:
    """Return sentences with the paired differences between selections and their controls."""
    likes = {record["method"]: record["like"] for record in records if "like" in record}
    found = []
    for control in dict.fromkeys(arm.selector for arm in arms):
        if control not in BUILT_IN_SELECTORS:
            continue
        kind = selector_named(control)
        main = likes.get(control, "") if kind.control_for == "like" else kind.control_for
        pair = (main, control)
        both = [arm for arm in arms if arm.selector in pair]
        if {arm.selector for arm in both} == set(pair):
            rows = table(both, metric.key, control, metric.lower_is_better)
            [row] = [row for row in rows if row.method == main]
            if row.pairs:
                found.append(
                    f"{main} − {control} ({kind.control_words}): {difference(row)} "
                    f"({plural(row.pairs, 'pair')}, not corrected)."
                )
    return found


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


def difference(row: Row) -> str:
    """Return the difference to the baseline with its 95% interval."""
    if row.verdict is None:
        return MISSING
    mean, _, low, high, _ = row.difference
    return "not finite" if mean is None else with_interval(mean, low, high)


def _root(variance: float | None) -> float | None:
    return None if variance is None else math.sqrt(variance)


def spreads_of(group: Group) -> dict[str, tuple[float, int]]:
    """Return method -> standard deviation of the loss difference over seeds, degrees of freedom.

    A seed's difference is the mean over its trainings. Methods without spread are left out.
    """
    return {
        row.method: (row.difference.standard_error * math.sqrt(row.units), row.units - 1)
        for row in group.tables[0].rows
        if row.units > 1 and row.difference.standard_error
    }


def pooled(spreads: Sequence[tuple[float, int]]) -> float:
    """Pool standard deviations, weighted by their degrees of freedom."""
    return math.sqrt(sum(sd**2 * freedom for sd, freedom in spreads) / sum(f for _, f in spreads))
