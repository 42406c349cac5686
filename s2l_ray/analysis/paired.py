"""Selectors compared by their arms: pairs, a table of one budget and one metric, and its words.

Arms are compared in pairs: those of two selectors with the same selection seed and the same
training seed, which share their initial weights. A difference is always method − baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, Interval, Seeds, holm, interval
from s2l_ray.formatting import plural, signed

Verdict = Literal["better", "worse", "not distinguishable", "no verdict"]


class Outcome(NamedTuple):
    """What one arm came to: a target trained on one selection with one seed, then evaluated."""

    selector: str
    budget: int | float | str
    selection_seed: int
    training_seed: int
    metrics: Mapping[str, float]

    @property
    def seeds(self) -> Seeds:
        return self.selection_seed, self.training_seed


class Row(NamedTuple):
    """One method in the table of one budget and one metric; the baseline's has no verdict."""

    method: str
    runs: int
    mean: float | None
    standard_error: float | None
    difference: Interval  # method − baseline; its p is not corrected
    pairs: int  # in which both values are finite
    left_out: int  # pairs in which one is not
    selection_seeds: int  # different ones among the pairs
    training_seeds: int
    adjusted_p: float | None
    verdict: Verdict | None

    @property
    def units(self) -> int:
        """Independent ones among the pairs: pairs that share a seed are not."""
        return min(self.selection_seeds, self.training_seeds)


class _Arm(Protocol):
    @property
    def selector(self) -> str: ...
    @property
    def seeds(self) -> Seeds: ...


A = TypeVar("A", bound=_Arm)


def paired(arms: Sequence[A], main: str, baseline: str) -> list[tuple[A, A]]:
    """Pairs (main, baseline) of arms with the same seeds, by seeds; none of a selector with itself.

    Raises ValueError if a selector has two arms with the same seeds.
    """
    by_seeds: dict[str, dict[Seeds, A]] = {main: {}, baseline: {}}
    for arm in arms:
        if arm.selector not in by_seeds:
            continue
        if arm.seeds in by_seeds[arm.selector]:
            raise ValueError(
                f"two arms of selector {arm.selector!r} have selection seed {arm.seeds[0]} and "
                f"training seed {arm.seeds[1]}"
            )
        by_seeds[arm.selector][arm.seeds] = arm
    if main == baseline:
        return []
    shared = sorted(by_seeds[main].keys() & by_seeds[baseline].keys())
    return [(by_seeds[main][seeds], by_seeds[baseline][seeds]) for seeds in shared]


def paired_differences(
    arms: Sequence[Outcome], metric: str, method: str, baseline: str = "random"
) -> dict[Seeds, float]:
    """Seeds -> `metric`, method − baseline, of the pairs in which both are finite."""
    found = {
        mine.seeds: mine.metrics[metric] - other.metrics[metric]
        for mine, other in paired(arms, method, baseline)
    }
    return {seeds: value for seeds, value in found.items() if math.isfinite(value)}


def table(
    arms: Sequence[Outcome], metric: str, baseline: str = "random", lower_is_better: bool = True
) -> list[Row]:
    """One row per selector, in order of appearance, from the arms of one budget.

    Means and standard errors are over all runs of a method, not finite if one of them is not. A
    verdict takes `MIN_UNITS` selection seeds and as many training seeds among the pairs, and some
    spread; p is adjusted by Holm's correction over the methods that have so many. Raises ValueError
    for several budgets, no arm of the baseline, a metric that an arm lacks, two arms of a selector
    with the same seeds.
    """
    methods = list(dict.fromkeys(arm.selector for arm in arms))
    if len(budgets := list(dict.fromkeys(arm.budget for arm in arms))) > 1:
        raise ValueError(f"the arms of one table have one budget, found {budgets}")
    if baseline not in methods:
        raise ValueError(f"no arm of the baseline {baseline!r}, found {methods}")
    for arm in arms:
        if metric not in arm.metrics:
            raise ValueError(
                f"metric {metric!r} is missing in the arm of {arm.selector!r} with selection seed "
                f"{arm.selection_seed} and training seed {arm.training_seed}, which has "
                f"{sorted(arm.metrics)}"
            )
    rows = [_row(arms, metric, method, baseline) for method in methods]
    tested = {
        row.method: row.difference.p_value
        for row in rows
        if row.units >= MIN_UNITS and row.difference.p_value is not None
    }
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [
        row._replace(
            adjusted_p=adjusted[row.method],
            verdict=_verdict(row.difference, adjusted[row.method], lower_is_better),
        )
        if row.method in adjusted
        else row
        for row in rows
    ]


def _row(arms: Sequence[Outcome], metric: str, method: str, baseline: str) -> Row:
    mine = {arm.seeds: arm.metrics[metric] for arm in arms if arm.selector == method}
    pairs = paired(arms, method, baseline)
    found = paired_differences(arms, metric, method, baseline)
    mean, standard_error, *_ = interval(mine.values(), mine)
    return Row(
        method=method,
        runs=len(mine),
        mean=mean,
        standard_error=standard_error,
        difference=interval(found.values(), found),
        pairs=len(found),
        left_out=len(pairs) - len(found),
        selection_seeds=len({selection for selection, _ in found}),
        training_seeds=len({training for _, training in found}),
        adjusted_p=None,
        verdict=None if method == baseline else "no verdict",
    )


def _verdict(difference: Interval, adjusted_p: float, lower_is_better: bool) -> Verdict:
    assert difference.mean is not None  # it has a p
    if adjusted_p > ALPHA:
        return "not distinguishable"
    return "better" if (difference.mean < 0) == lower_is_better else "worse"


def conclusions(rows: Sequence[Row]) -> list[str]:
    """What a table says: which methods are better than the baseline, which worse, which cannot be
    told apart from it, about which nothing is said, and what narrows that down."""
    baseline = next(row.method for row in rows if row.verdict is None)
    by_verdict = {
        verdict: [row for row in rows if row.verdict == verdict]
        for verdict in ("better", "worse", "not distinguishable", "no verdict")
    }
    found = []
    if better := by_verdict["better"]:
        found.append(f"Better than {baseline}: {_listed(better)}.")
    if worse := by_verdict["worse"]:
        found.append(f"Worse than {baseline}: {_listed(worse)}.")
    if alike := by_verdict["not distinguishable"]:
        found.append(
            f"Not to be told apart from {baseline}, since the difference is within the noise: "
            f"{_listed(alike)}. This does not show that they are equal."
        )
    if few := by_verdict["no verdict"]:
        found.append(
            f"No verdict on {_listed(few)}: that takes pairs of finite values from at least "
            f"{MIN_UNITS} selection seeds, with some spread among their differences; more "
            "trainings on the subsets of one seed are no more seeds."
        )
    tested = [row for row in rows if row.adjusted_p is not None]
    if len(tested) > 1:
        found.append(
            f"p is corrected for {len(tested)} comparisons (Holm) and has to be at most {ALPHA}; "
            "the intervals are of each difference alone, so one may leave out zero and not count."
        )
    for row in rows:
        if row.left_out:
            found.append(
                f"Left out: {plural(row.left_out, 'pair')} of {row.method} and {baseline} in which "
                "a value is not finite."
            )
    return found


def _listed(rows: Iterable[Row]) -> str:
    return ", ".join(f"{row.method} ({_numbers(row)})" for row in rows)


def _numbers(row: Row) -> str:
    mean, _, low, high, _ = row.difference
    words = [plural(row.pairs, "pair")]
    if mean is not None:
        words.insert(0, signed(mean))
    if row.adjusted_p is not None and low is not None and high is not None:
        words.insert(1, f"95% interval {signed(low)} to {signed(high)}")
        words.append("p < 0.001" if row.adjusted_p < 0.001 else f"p = {row.adjusted_p:.3g}")
    return ", ".join(words)
