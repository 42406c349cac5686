"""What a comparison of selectors prints: the plan, the values so far, the tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from statistics import median

from s2l_ray.analysis.decision import GATE
from s2l_ray.analysis.measures import LARGE, ArmRecord, lacking
from s2l_ray.analysis.paired import Row
from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, detectable, pairs_needed
from s2l_ray.config import BASELINE, CompareConfig, RunConfig
from s2l_ray.formatting import MISSING, measured, plural
from s2l_ray.report.comparison_tables import (
    RULES,
    Group,
    difference,
    groups_of,
    left_out_of,
    pooled,
    small_sources,
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
    tests = compare.num_tests
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
    known = groups_of(seen, compare)
    groups = [group for group in known if (group.budget, group.match) in planned]
    spread = [(group, sds) for group in groups if (sds := spreads_of(group))]
    for group, sds in spread:
        sd = pooled(list(sds.values()))
        least = detectable(sd, seeds, alpha=ALPHA / tests)
        text = (
            f"budget {group.budget}, equal {group.match}: so far, differences to {BASELINE} have a "
            f"standard deviation of {measured(sd)} {group.tables[0].metric.unit} over seeds"
            f"{_range(sds)}; {seeds} seeds can detect a difference of {measured(least)} ({how})"
        )
        if shared := [row.over_examples for row in group.tables[0].rows if row.over_examples]:
            text += (
                f"; the evaluation examples add a standard error of {measured(median(shared), 2)}, "
                "which more seeds do not lower"
            )
        if compare.difference is not None:
            needed = pairs_needed(sd, compare.difference, alpha=ALPHA / tests)
            wanted = f"{compare.difference:g} {group.tables[0].metric.unit}"
            text += f"; a difference of {wanted} needs {needed:,} seeds"
        lines.append(text)
    if not spread:
        least = detectable(1.0, seeds, alpha=ALPHA / tests)
        lines.append(
            f"no spread is known yet: {seeds} seeds can detect a difference of {least:.1f} "
            f"standard deviations of the paired differences ({how})"
        )
    return "\n".join(lines)


def tell_progress(config: RunConfig, records: Sequence[ArmRecord]) -> None:
    """Log what is done and the values so far, without differences or verdicts: those of a
    comparison that may stop when it looks good are wrong more often than 5%. After `GATE` seeds,
    warn if the setting has no headroom."""
    compare = config.compare
    seeds = len({record["selection_seed"] for record in records})
    pairs = len({(each["selection_seed"], each["training_seed"]) for each in records})
    for group in groups_of(records, compare):
        first = group.tables[0]
        shown = "; ".join(f"{row.method} {_fixed(row.mean, '')}" for row in first.rows)
        logger.info(
            f"seed {seeds} of {len(compare.seeds)}, budget {group.budget}, equal {group.match}, "
            f"{first.metric.words}: {shown}"
        )
    if pairs != GATE * compare.trainings or "compute" not in compare.full:
        return
    for group in groups_of(records, compare):
        room = group.headroom
        if room.measured and not room.passed:
            logger.warning(f"budget {group.budget}: {room.told}. What would: {room.would}")


def as_text(records: Sequence[ArmRecord], rules: CompareConfig = RULES) -> str:
    """Return the tables of the primary measure, what they say, the exploratory measures in short,
    and what was not evaluated."""
    lines = []
    for group in groups_of(records, rules):
        first = group.tables[0]
        lines += ["", f"budget {group.budget}, equal {group.match}: {first.metric.words} (primary)"]
        lines += _aligned([_cells(row, group.costs[row.method]) for row in first.rows])
        lines += [f"  {each}" for each in told(group)]
        lines += [f"  exploratory: {each}" for each in _exploratory(group)]
    lines += lacking(records, rules.primary) + left_out_of(records)
    return "\n".join(lines[1:])


def told(group: Group) -> list[str]:
    """Return what a group says by its primary measure, in sentences."""
    first = group.tables[0]
    found = first.conclusions + worth_told(group) + headroom_told(group)
    found += first.caveats + first.controls + group.too_few
    if small := small_sources(group):
        found.append(
            f"Not in the mean, with fewer than {LARGE} held-out examples: {', '.join(small)}."
        )
    if first.errors:
        listed = "; ".join(
            f"{method} {measured(error, 2)}" for method, error in first.errors.items()
        )
        found.append(f"Standard error of one pair's difference over the examples: {listed}.")
    return found


def worth_told(group: Group) -> list[str]:
    """Return what the selections are worth in random data, in a sentence."""
    if not group.worth:
        return []
    some = next(iter(group.worth.values()))
    listed = "; ".join(f"{method} {worth.words}" for method, worth in group.worth.items())
    return [
        f"Worth so many times as much {BASELINE} data: {listed}. {BASELINE} was measured from "
        f"×{some.least:.3g} to ×{some.most:.3g}."
    ]


def headroom_told(group: Group) -> list[str]:
    """Return whether the setting can tell selections apart, in a sentence."""
    room = group.headroom
    if not room.measured:
        return [f"Headroom unknown: {room.why}."]
    if room.passed:
        return [f"Headroom: {room.why}."]
    if any(row.verdict in ("better", "worse") for row in group.tables[0].rows):
        # The setting does tell some selections apart.
        return [f"Little headroom: {room.why}."]
    return [f"No headroom: {room.told}. What would: {room.would}."]


def _exploratory(group: Group) -> list[str]:
    """Return the differences by the other measures, those by source apart, one line each."""
    found = []
    for table in group.tables[1:]:
        if table.metric.key.startswith("by_source/"):
            continue
        rows = [row for row in table.rows if row.verdict == "exploratory"]
        shown = "; ".join(f"{row.method} {difference(row)}" for row in rows)
        found.append(f"{table.metric.words}: {shown}")
    return found


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
