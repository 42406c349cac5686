"""The comparison of selectors in words, as a table for the terminal and as a page.

Records are those of comparison.compare, one a target. A table is of one budget, of what was matched
(examples, tokens, compute) and of one metric.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.analysis.measures import Metric, Record, metrics_of, value_of
from s2l_ray.analysis.paired import Outcome, Row, in_words, table
from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, detectable, pairs_needed, spreads
from s2l_ray.config import BASELINE, RunConfig
from s2l_ray.execution import machine
from s2l_ray.formatting import plural, plus_minus, signed, span
from s2l_ray.report.page import environment, printable

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)


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


def groups_of(records: Sequence[Record]) -> list[Group]:
    keys = dict.fromkeys((record["budget"], record["match"]) for record in records)
    return [_group(*key, [r for r in records if (r["budget"], r["match"]) == key]) for key in keys]


def plan(config: RunConfig, targets: int, seen: Sequence[Record]) -> str:
    """What is about to be run, and how small a difference it can show by the spread seen so far."""
    compare = config.compare
    seeds = len(compare.seeds)
    judged = compare.also if compare.also_seeds >= MIN_UNITS else []
    tests = max(1, len(compare.selectors) - 1 + len(judged) + len(compare.full))
    also = ""
    if compare.also:
        also = f" and {len(compare.also)} more with the first {plural(compare.also_seeds, 'seed')}"
    lines = [
        f"compare: {plural(len(compare.selectors), 'selector')}{also}, "
        f"{plural(len(compare.budgets), 'budget')}, {plural(seeds, 'seed')} (a proxy each), "
        f"{plural(compare.trainings, 'training')} on each subset: at most {targets:,} targets"
    ]
    how = f"80% power, Holm's hardest step of {tests}"
    if seeds < 2:
        return "\n".join([*lines, "one seed shows no spread: no difference can be told from noise"])
    if seeds < MIN_UNITS:
        lines.append(f"{seeds} seeds give numbers, but no verdict: that takes {MIN_UNITS}")
    planned = {(str(budget), match) for budget in compare.budgets for match in compare.match}
    groups = [group for group in groups_of(seen) if (group.budget, group.match) in planned]
    spread = [(group, sds) for group in groups if (sds := _spreads(group))]
    for group, sds in spread:
        sd = _pooled(list(sds.values()))
        least = detectable(sd, seeds, alpha=ALPHA / tests)
        text = (
            f"budget {group.budget}, equal {group.match}: differences to {BASELINE} spread by "
            f"{sd:.4f} nats (standard deviation over seeds so far{_range(sds)}); {seeds} seeds can "
            f"show one of {least:.4f} ({how})"
        )
        if compare.difference is not None:
            wanted = pairs_needed(sd, compare.difference, alpha=ALPHA / tests)
            text += f"; one of {compare.difference:g} takes {wanted:,}"
        lines.append(text)
    if not spread:
        least = detectable(1.0, seeds, alpha=ALPHA / tests)
        lines.append(
            f"no spread has been measured here yet: {seeds} seeds can show a difference of "
            f"{least:.1f} standard deviations of the paired differences ({how})"
        )
    return "\n".join(lines)


def say_so_far(records: Sequence[Record]) -> None:
    """After each pair of seeds: the differences so far, a line a group."""
    for group in groups_of(records):
        rows = [row for row in group.tables[0].rows if row.difference.mean is not None]
        shown = ", ".join(f"{row.method} {difference(row)}" for row in rows)
        logger.info(
            f"budget {group.budget}, equal {group.match}, held-out loss less {BASELINE}'s: {shown}"
        )


def as_text(records: Sequence[Record]) -> str:
    """The tables of the held-out loss, what they say, and what is not evaluated on."""
    lines = []
    for group in groups_of(records):
        first = group.tables[0]
        width = max(len(row.method) for row in first.rows)
        lines += ["", f"budget {group.budget}, equal {group.match}: {first.metric.words}"]
        for row in first.rows:
            cost = group.costs[row.method]
            lines.append(
                f"  {row.method:{width}}  {plus_minus(row.mean, row.standard_error)}  "
                f"{difference(row):>22}  {row.runs} runs, {cost['examples']} examples"
                + (f", {cost['shared']} of them {BASELINE}'s" if row.verdict else "")
                + f", {cost['steps']} steps"
                + (f"; {row.verdict}" if row.verdict else "")
            )
        lines += [f"  {each}" for each in first.sentences + first.controls + group.too_few]
    lines += _left_out(records)
    return "\n".join(lines[1:])


def write(run: Run, records: Sequence[Record]) -> str:
    """Render the page to report/comparison.html; returns its address."""
    page = render(run.config.name, run.store.uri, records)
    run.store.write_bytes(page.encode(), "report", "comparison.html")
    return run.store.address("report", "comparison.html")


def render(title: str, run_dir: str, records: Sequence[Record]) -> str:
    from markupsafe import Markup

    from s2l_ray.report.figures import forest

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
            left_out=_left_out(records),
            versions=machine.versions(),
            hardware=machine.hardware(),
        )
    )
    return printable(page)


def _group(budget: str, match: str, records: Sequence[Record]) -> Group:
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
        sentences = in_words(rows)
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
    arms: Sequence[Outcome], records: Sequence[Record], metric: Metric
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


def _errors(records: Sequence[Record], metric: str) -> dict[str, float]:
    """Method -> the median of its pairs' standard errors over held-out examples, where known."""
    found: dict[str, list[float]] = {}
    for record in records:
        error = record.get("errors_over_examples", {}).get(metric)
        if error is not None:
            found.setdefault(record["method"], []).append(error)
    return {method: median(errors) for method, errors in found.items()}


def _left_out(records: Sequence[Record]) -> list[str]:
    """Sentences about what is not evaluated on, each once."""
    return list(dict.fromkeys(text for record in records for text in record.get("left_out", ())))


def _spreads(group: Group) -> dict[str, tuple[float, int]]:
    """Method -> standard deviation of a seed's difference of the loss, over all its trainings, and
    its degrees of freedom; of those that show some."""
    return {
        row.method: (row.difference.standard_error * math.sqrt(row.units), row.units - 1)
        for row in group.tables[0].rows
        if row.units > 1 and row.difference.standard_error
    }


def _pooled(spreads: Sequence[tuple[float, int]]) -> float:
    return math.sqrt(sum(sd**2 * freedom for sd, freedom in spreads) / sum(f for _, f in spreads))


def _range(sds: Mapping[str, tuple[float, int]]) -> str:
    """Of several methods, the least and the largest spread."""
    if len(sds) < 2:
        return ""
    low, high = min(sds, key=sds.__getitem__), max(sds, key=sds.__getitem__)
    return f", pooled over methods: of {low} {sds[low][0]:.4f}, of {high} {sds[high][0]:.4f}"


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
