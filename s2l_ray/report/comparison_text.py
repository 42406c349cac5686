"""What a comparison of selectors prints: the plan, the differences so far, the tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from s2l_ray.analysis.measures import ArmRecord
from s2l_ray.analysis.paired import Row
from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, detectable, pairs_needed
from s2l_ray.config import BASELINE, RunConfig
from s2l_ray.formatting import MISSING, measured, plural
from s2l_ray.report.comparison_tables import (
    difference,
    groups_of,
    left_out_of,
    pooled,
    spreads_of,
)

logger = logging.getLogger(__name__)


def plan(config: RunConfig, targets: int, seen: Sequence[ArmRecord]) -> str:
    """Say what will be trained, and the smallest difference that it can detect.

    targets: how many will be trained, at most. seen: records of earlier comparisons with the same
    settings, from which the spread is estimated.
    """
    compare = config.compare
    seeds = len(compare.seeds)
    judged = compare.also if compare.also_seeds >= MIN_UNITS else []
    tests = max(1, len(compare.selectors) - 1 + len(judged) + len(compare.full))
    also = ""
    if compare.also:
        also = f" and {len(compare.also)} more with the first {plural(compare.also_seeds, 'seed')}"
    proxies = "one proxy per seed" if config.trains_proxy else "all with the same losses"
    lines = [
        f"compare: {plural(len(compare.selectors), 'selector')}{also}, "
        f"{plural(len(compare.budgets), 'budget')}, {plural(seeds, 'seed')} ({proxies}), "
        f"{plural(compare.trainings, 'training')} per subset: at most {targets:,} targets"
    ]
    if seeds < 2:
        lines.append(f"1 seed shows no spread and allows no verdict; a verdict needs {MIN_UNITS}")
        return "\n".join(lines)
    if seeds < MIN_UNITS:
        lines.append(f"{seeds} seeds give differences but no verdict; a verdict needs {MIN_UNITS}")
    how = f"80% power, strictest step of Holm's correction for {plural(tests, 'comparison')}"
    planned = {(str(budget), match) for budget in compare.budgets for match in compare.match}
    groups = [group for group in groups_of(seen) if (group.budget, group.match) in planned]
    spread = [(group, sds) for group in groups if (sds := spreads_of(group))]
    for group, sds in spread:
        sd = pooled(list(sds.values()))
        least = detectable(sd, seeds, alpha=ALPHA / tests)
        text = (
            f"budget {group.budget}, equal {group.match}: so far, differences to {BASELINE} have a "
            f"standard deviation of {measured(sd)} nats over seeds{_range(sds)}; {seeds} seeds can "
            f"detect a difference of {measured(least)} ({how})"
        )
        if compare.difference is not None:
            needed = pairs_needed(sd, compare.difference, alpha=ALPHA / tests)
            text += f"; a difference of {compare.difference:g} needs {needed:,} seeds"
        lines.append(text)
    if not spread:
        least = detectable(1.0, seeds, alpha=ALPHA / tests)
        lines.append(
            f"no spread is known yet: {seeds} seeds can detect a difference of {least:.1f} "
            f"standard deviations of the paired differences ({how})"
        )
    return "\n".join(lines)


def say_so_far(records: Sequence[ArmRecord]) -> None:
    """Log the differences so far, one line per budget and match."""
    for group in groups_of(records):
        rows = [row for row in group.tables[0].rows if row.difference.mean is not None]
        shown = "; ".join(f"{row.method} {difference(row)}" for row in rows)
        logger.info(
            f"budget {group.budget}, equal {group.match}, held-out loss − {BASELINE}'s: {shown}"
        )


def as_text(records: Sequence[ArmRecord]) -> str:
    """Return the tables of the held-out loss, what they say, and what was not evaluated."""
    lines = []
    for group in groups_of(records):
        first = group.tables[0]
        lines += ["", f"budget {group.budget}, equal {group.match}: {first.metric.words}"]
        lines += _aligned([_cells(row, group.costs[row.method]) for row in first.rows])
        told = first.conclusions + first.caveats + first.controls + group.too_few
        if first.errors:
            listed = "; ".join(
                f"{method} {measured(error, 2)}" for method, error in first.errors.items()
            )
            told.append(
                "The intervals are over seeds, for these held-out examples. Standard error of one "
                f"pair's difference over the examples: {listed}."
            )
        lines += [f"  {each}" for each in told]
    lines += left_out_of(records)
    return "\n".join(lines[1:])


def _cells(row: Row, cost: Mapping[str, str]) -> list[str]:
    error = None if row.mean is None else row.standard_error
    shared = f" ({cost['shared']} also in {BASELINE}'s)" if row.verdict else ""
    return [
        row.method,
        _fixed(row.mean, "") + ("" if error is None else f" ± {_fixed(error, '')}"),
        _fixed_difference(row),
        row.verdict or "baseline",
        f"{cost['runs']} runs, {cost['examples']} examples{shared}, {cost['steps']} steps",
    ]


def _fixed_difference(row: Row) -> str:
    """Return the difference with its interval; numbers of a column have the same decimals."""
    mean, _, low, high, _ = row.difference
    if row.verdict is None or mean is None or low is None or high is None:
        return MISSING if row.verdict is None else _fixed(mean)
    return f"{_fixed(mean)} [{_fixed(low)}, {_fixed(high)}]"


def _fixed(value: float | None, sign: str = "+") -> str:
    return MISSING if value is None else f"{value:{sign}.4f}".replace("-", "−")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(["", *map(str.ljust, row, widths)]).rstrip() for row in rows]


def _range(sds: Mapping[str, tuple[float, int]]) -> str:
    """Name the smallest and the largest standard deviation, if there are several."""
    if len(sds) < 2:
        return ""
    low, high = min(sds, key=sds.__getitem__), max(sds, key=sds.__getitem__)
    return (
        f" (pooled; from {measured(sds[low][0])} for {low} to {measured(sds[high][0])} for {high})"
    )
