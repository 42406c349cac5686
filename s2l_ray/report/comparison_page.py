"""The comparison of selectors in words, as a table for the terminal and as a page.

Records are those of comparison.compare, one a target. A table is of one budget, of what was matched
(examples, tokens, compute) and of one metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.analysis.measures import ArmRecord, Metric, metrics_of, value_of
from s2l_ray.analysis.paired import Outcome, Row, conclusions, table
from s2l_ray.analysis.statistics import MIN_UNITS, spreads
from s2l_ray.config import BASELINE
from s2l_ray.execution import machine
from s2l_ray.formatting import plural, signed, span
from s2l_ray.report.html import environment, printable

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run


CONTROLS = {  # what is held against the selection that it was made for
    "random_shares": "random examples in its shares of the sources",
    "random_tokens": "as many tokens of random examples",
    "loss_strata": "the same without clusters",
}


class Table(NamedTuple):
    """One metric of the arms of one budget and match."""

    metric: Metric
    rows: list[Row]
    sentences: list[str]
    controls: list[str]  # sentences: selections less their controls
    # Method -> standard deviation by selection and by training; empty where no seed repeats.
    spreads: dict[str, tuple[float | None, float | None]]
    # Method -> standard error of a pair's difference over the held-out examples, the median of
    # pairs; of the loss and its mean over sources.
    errors: dict[str, float]


class Group(NamedTuple):
    """The arms of one budget and match: what they cost, and a table for each metric."""

    budget: str
    match: str
    costs: dict[str, dict[str, str]]  # method -> examples, shared, steps, trained tokens
    tables: list[Table]
    too_few: list[str]  # sentences: which selectors had too few examples to choose from


def groups_of(records: Sequence[ArmRecord]) -> list[Group]:
    keys = dict.fromkeys((record["budget"], record["match"]) for record in records)
    return [_group(*key, [r for r in records if (r["budget"], r["match"]) == key]) for key in keys]


def write(run: Run, records: Sequence[ArmRecord]) -> str:
    """Render the page to report/comparison.html; returns its address."""
    page = render(run.config.name, run.store.uri, records)
    run.store.write_bytes(page.encode(), "report", "comparison.html")
    return run.store.address("report", "comparison.html")


def render(title: str, run_dir: str, records: Sequence[ArmRecord]) -> str:
    from markupsafe import Markup

    from s2l_ray.report.figures.comparison import forest

    groups = groups_of(records)
    page = (
        environment()
        .get_template("comparison.html.j2")
        .render(
            title=title,
            run_dir=run_dir,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            baseline=BASELINE,
            min_units=MIN_UNITS,
            tables=sum(len(group.tables) for group in groups),
            groups=groups,
            figures=[Markup(forest(g.tables[0].rows, f"forest-{n}")) for n, g in enumerate(groups)],
            difference=difference,
            left_out=left_out_of(records),
            versions=machine.versions(),
            hardware=machine.hardware(),
        )
    )
    return printable(page)


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
        } | {"shared": f"{span([round(100 * record['shared']) for record in mine])}%"}
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
        errors = _errors(records, metric.key)
        sentences = conclusions(rows)
        if errors:
            listed = ", ".join(f"{method} {error:.4f}" for method, error in errors.items())
            sentences.append(
                "Intervals are over seeds, with these held-out examples. Over such examples the "
                f"difference of one pair has a standard error, too: {listed}."
            )
        controls = _against_controls(arms, records, metric)
        tables.append(Table(metric, rows, sentences, controls, parts, errors))
    return Group(budget, match, costs, tables, list(dict.fromkeys(too_few)))


def _against_controls(
    arms: Sequence[Outcome], records: Sequence[ArmRecord], metric: Metric
) -> list[str]:
    """Sentences: selections less their controls, in pairs."""
    likes = {record["method"]: record["like"] for record in records if "like" in record}
    controls = [(main, control) for control, main in ({"loss_strata": "s2l"} | likes).items()]
    found = []
    for pair in controls:
        both = [arm for arm in arms if arm.selector in pair]
        if {arm.selector for arm in both} == set(pair):
            main, control = pair
            rows = table(both, metric.key, control, metric.lower_is_better)
            [row] = [row for row in rows if row.method == main]
            if row.pairs:
                found.append(
                    f"{main} less {control} ({CONTROLS[control]}): {difference(row)}, "
                    f"{plural(row.pairs, 'pair')}, not corrected."
                )
    return found


def _errors(records: Sequence[ArmRecord], metric: str) -> dict[str, float]:
    """Method -> the median of its pairs' standard errors over held-out examples, where known."""
    found: dict[str, list[float]] = {}
    for record in records:
        error = record.get("errors_over_examples", {}).get(metric)
        if error is not None:
            found.setdefault(record["method"], []).append(error)
    return {method: median(errors) for method, errors in found.items()}


def left_out_of(records: Sequence[ArmRecord]) -> list[str]:
    """Sentences about what is not evaluated on, each once."""
    return list(dict.fromkeys(text for record in records for text in record.get("left_out", ())))


def difference(row: Row) -> str:
    """To the baseline, with its interval."""
    if row.verdict is None:
        return "–"
    mean, _, low, high, _ = row.difference
    if mean is None:
        return "not finite"
    if low is None or high is None:
        return signed(mean)
    return f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def _root(variance: float | None) -> float | None:
    return None if variance is None else math.sqrt(variance)
