"""What a comparison comes to, in three sentences: what won where, whether that is beyond noise, and
what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence

from s2l_ray.analysis.measures import Metric, metrics_of
from s2l_ray.analysis.paired import Outcome, Row, outcomes_of, rows
from s2l_ray.analysis.statistics import MIN_UNITS
from s2l_ray.analysis.verdicts import judge
from s2l_ray.config import BASELINE
from s2l_ray.formatting import measured, plural, with_interval
from s2l_ray.pipeline.records import Record


def closing(records: Sequence[Record], *, main: str, primary: str | None = None) -> list[str]:
    """Return three sentences on the records of comparison.baselines: the verdicts between all pairs
    of selectors on the primary measure, after Holm's correction over these pairs.

    main: the run's own selector. primary: compare.primary. Empty if there is nothing to compare:
    fewer than two selectors have a finite mean of the measure, or the baseline has none.
    """
    found = [record for record in records if "loss" in record]
    if not found:
        return []
    metric = metrics_of(found, primary)[0]
    arms = outcomes_of(found, metric)
    means = _means(arms, metric.key)
    if len(means) < 2 or BASELINE not in means:
        return []
    ranked = sorted(means, key=lambda name: means[name] if metric.lower_is_better else -means[name])
    # Of each selector, its differences from those that rank above it: each pair once.
    tables = [
        rows([arm for arm in arms if arm.selector in ranked[place:]], metric.key, name)
        for place, name in enumerate(ranked[:-1])
    ]
    pairs = {
        (above, row.method): row
        for above, table in zip(ranked, judge(tables, metric.lower_is_better), strict=False)
        for row in table
        if row.method != above
    }
    return [_won(ranked, means, metric), _noise(ranked, pairs), _next(ranked, pairs, main)]


def _means(arms: Sequence[Outcome], key: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for arm in arms:
        found.setdefault(arm.selector, []).append(arm.metrics[key])
    means = {name: math.fsum(values) / len(values) for name, values in found.items()}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}


def _won(ranked: Sequence[str], means: dict[str, float], metric: Metric) -> str:
    who = f"{ranked[0]} won"
    if means[ranked[0]] == means[ranked[1]]:
        who = "No selector won"
    numbers = ", ".join(f"{name} {measured(means[name], 4)}" for name in ranked)
    better = "lower" if metric.lower_is_better else "higher"
    return f"{who} on the primary measure, {metric.words} ({better} is better): {numbers}."


def _noise(ranked: Sequence[str], pairs: dict[tuple[str, str], Row]) -> str:
    """Say whether the first's lead over each of the others is beyond noise."""
    told = []
    for other in ranked[1:]:
        row = pairs[ranked[0], other]
        mean, _, low, high, _ = row.difference
        if mean is None:
            told.append(f"over {other} is not known, for want of pairs with the same seed")
            continue
        size = f"{with_interval(mean, low, high)}, {plural(row.pairs, 'pair')}"
        if row.verdict == "worse":
            told.append(f"over {other} is beyond noise ({size})")
        elif row.verdict == "no verdict":
            needs = f"{MIN_UNITS} pairs" if row.units < MIN_UNITS else "some spread among the pairs"
            told.append(f"over {other} is undecided ({size}; a verdict needs {needs})")
        else:
            told.append(f"over {other} is not beyond noise ({size})")
    return f"The lead of {ranked[0]} {' and '.join(told)}."


def _next(ranked: Sequence[str], pairs: dict[tuple[str, str], Row], main: str) -> str:
    above = ranked[: ranked.index(BASELINE)]
    better = [name for name in above if pairs[name, BASELINE].verdict == "worse"]
    if better:
        best = main if main in better and not _loses(main, ranked, pairs) else better[0]
        how = f"keep {main}" if best == main else f"set selection.selector to {best}"
        return f"Next: {how}, which is better than {BASELINE} beyond noise, and run finetune."
    against = [row for pair, row in pairs.items() if BASELINE in pair]
    if any(row.verdict == "no verdict" and row.units < MIN_UNITS for row in against):
        seeds = ",".join(map(str, range(MIN_UNITS)))
        return (
            f"Next: run this again with evaluation.seeds=[{seeds}], which trains only the targets "
            "that are missing, to get a verdict."
        )
    return (
        f"Next: take {BASELINE}, which needs no proxy: no selector is better beyond noise here; "
        "another budget or more seeds may show one that is."
    )


def _loses(name: str, ranked: Sequence[str], pairs: dict[tuple[str, str], Row]) -> bool:
    """Whether a selector that ranks higher is better beyond noise."""
    return any(pairs[each, name].verdict == "worse" for each in ranked[: ranked.index(name)])
