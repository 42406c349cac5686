"""A comparison of selectors on the terminal: the plan, the differences so far, the tables."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from s2l_ray.analysis.measures import ArmRecord
from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, detectable, pairs_needed
from s2l_ray.config import BASELINE, RunConfig
from s2l_ray.formatting import plural, plus_minus
from s2l_ray.report.comparison_page import Group, difference, groups_of, left_out_of

logger = logging.getLogger(__name__)


def plan(config: RunConfig, targets: int, seen: Sequence[ArmRecord]) -> str:
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


def say_so_far(records: Sequence[ArmRecord]) -> None:
    """After each pair of seeds: the differences so far, a line a group."""
    for group in groups_of(records):
        rows = [row for row in group.tables[0].rows if row.difference.mean is not None]
        shown = ", ".join(f"{row.method} {difference(row)}" for row in rows)
        logger.info(
            f"budget {group.budget}, equal {group.match}, held-out loss less {BASELINE}'s: {shown}"
        )


def as_text(records: Sequence[ArmRecord]) -> str:
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
    lines += left_out_of(records)
    return "\n".join(lines[1:])


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
