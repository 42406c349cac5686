"""Paired comparison of selectors: pairs of arms, the table of one budget and metric, its verdicts.

A pair is two arms with the same selection seed and training seed, and so the same initial weights.
A difference is always method − baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, Interval, Seeds, holm, interval
from s2l_ray.formatting import plural, with_interval

Verdict = Literal["better", "worse", "not distinguishable", "no verdict"]


class Outcome(NamedTuple):
    """The result of one arm: a target trained on one selection with one seed, then evaluated."""

    selector: str
    budget: int | float | str
    selection_seed: int
    training_seed: int
    metrics: Mapping[str, float]

    @property
    def seeds(self) -> Seeds:
        return self.selection_seed, self.training_seed


class Row(NamedTuple):
    """One method in the table of one budget and metric. The baseline's row has no verdict."""

    method: str
    runs: int
    mean: float | None
    standard_error: float | None
    difference: Interval  # method − baseline; p before correction
    pairs: int  # with two finite values
    left_out: int  # pairs with a value that is not finite
    selection_seeds: int  # distinct, among the pairs
    training_seeds: int
    adjusted_p: float | None  # after Holm's correction
    verdict: Verdict | None

    @property
    def units(self) -> int:
        """The number of independent pairs: pairs that share a seed count once."""
        return min(self.selection_seeds, self.training_seeds)


class _Arm(Protocol):
    @property
    def selector(self) -> str: ...
    @property
    def seeds(self) -> Seeds: ...


A = TypeVar("A", bound=_Arm)


def paired(arms: Sequence[A], main: str, baseline: str) -> list[tuple[A, A]]:
    """Return the pairs (main, baseline) of arms with the same seeds, sorted by seeds.

    A selector has no pairs with itself. Raises ValueError if a selector has two arms with the same
    seeds.
    """
    by_seeds: dict[str, dict[Seeds, A]] = {main: {}, baseline: {}}
    for arm in arms:
        if arm.selector not in by_seeds:
            continue
        if arm.seeds in by_seeds[arm.selector]:
            raise ValueError(
                f"found two arms of selector {arm.selector!r} with selection seed {arm.seeds[0]} "
                f"and training seed {arm.seeds[1]}, expected one"
            )
        by_seeds[arm.selector][arm.seeds] = arm
    if main == baseline:
        return []
    shared = sorted(by_seeds[main].keys() & by_seeds[baseline].keys())
    return [(by_seeds[main][seeds], by_seeds[baseline][seeds]) for seeds in shared]


def paired_differences(
    arms: Sequence[Outcome], metric: str, method: str, baseline: str = "random"
) -> dict[Seeds, float]:
    """Return seeds -> difference in `metric`, for the pairs with two finite values."""
    found = {
        mine.seeds: mine.metrics[metric] - other.metrics[metric]
        for mine, other in paired(arms, method, baseline)
    }
    return {seeds: value for seeds, value in found.items() if math.isfinite(value)}


def table(
    arms: Sequence[Outcome], metric: str, baseline: str = "random", lower_is_better: bool = True
) -> list[Row]:
    """Return one row per selector, in order of appearance, from the arms of one budget.

    Means and standard errors are over all runs of a method. They are not finite if a value is not.
    A verdict needs `MIN_UNITS` selection seeds, as many training seeds, and some spread. p is after
    Holm's correction over the methods that meet this. Raises ValueError for several budgets, a
    missing baseline, an arm without the metric, or two arms of a selector with the same seeds.
    """
    methods = list(dict.fromkeys(arm.selector for arm in arms))
    if len(budgets := list(dict.fromkeys(arm.budget for arm in arms))) > 1:
        raise ValueError(f"budget: found {budgets}, expected the arms of one budget")
    if baseline not in methods:
        raise ValueError(f"baseline: found arms of {methods}, expected some of {baseline!r}")
    for arm in arms:
        if metric not in arm.metrics:
            raise ValueError(
                f"metrics of the arm of {arm.selector!r} with selection seed {arm.selection_seed} "
                f"and training seed {arm.training_seed}: found {sorted(arm.metrics)}, expected "
                f"{metric!r}"
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
    assert difference.mean is not None  # since there is a p
    if adjusted_p > ALPHA:
        return "not distinguishable"
    return "better" if (difference.mean < 0) == lower_is_better else "worse"


def conclusions(rows: Sequence[Row]) -> list[str]:
    """Return the verdicts of a table in sentences, with differences and 95% intervals."""
    baseline = _baseline(rows)
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
            f"Not distinguishable from {baseline}: {_listed(alike)}. This does not show that they "
            "are equal."
        )
    if few := by_verdict["no verdict"]:
        found.append(
            f"No verdict: {_listed(few)}. A verdict needs pairs from at least {MIN_UNITS} "
            "selection seeds, with finite values and some spread. Further trainings on the subset "
            "of one seed do not count as seeds."
        )
    return found


def caveats(rows: Sequence[Row]) -> list[str]:
    """Return what narrows the verdicts of a table: the correction, and pairs without a value."""
    found = []
    tested = [row for row in rows if row.adjusted_p is not None]
    if len(tested) > 1:
        found.append(
            f"p is after Holm's correction for {len(tested)} comparisons; better and worse need "
            f"p ≤ {ALPHA}. The 95% intervals are not corrected, so one may exclude zero at p > "
            f"{ALPHA}."
        )
    for row in rows:
        if row.left_out:
            found.append(
                f"Left out because a value is not finite: {plural(row.left_out, 'pair')} of "
                f"{row.method} and {_baseline(rows)}."
            )
    return found


def _baseline(rows: Sequence[Row]) -> str:
    return next(row.method for row in rows if row.verdict is None)


def _listed(rows: Iterable[Row]) -> str:
    return "; ".join(f"{row.method} {_numbers(row)}" for row in rows)


def _numbers(row: Row) -> str:
    mean, _, low, high, _ = row.difference
    found = plural(row.pairs, "pair")
    if row.adjusted_p is not None:
        found += ", p < 0.001" if row.adjusted_p < 0.001 else f", p = {row.adjusted_p:.3g}"
    return f"({found})" if mean is None else f"{with_interval(mean, low, high)} ({found})"
