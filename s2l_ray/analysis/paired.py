"""Paired comparison of selectors: pairs of arms, and the table of one budget and metric.

A pair is two arms with the same selection seed and training seed, and so the same initial weights.
A difference is always method − baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar

from s2l_ray.analysis.equality import least_margin, p_of_equality, p_of_signs
from s2l_ray.analysis.examples import shared
from s2l_ray.analysis.measures import ArmRecord, Metric, influences_of, value_of
from s2l_ray.analysis.statistics import Interval, OverExamples, Seeds, interval

Verdict = Literal[
    "better", "worse", "equal", "not distinguishable", "no verdict", "reference", "exploratory"
]
REFERENCES = ("full, ", "untuned", "random ×")  # how the arms begin that are no selectors


class Outcome(NamedTuple):
    """The result of one arm: a target trained on one selection with one seed, then evaluated.

    influences: of groups of evaluation examples on the metrics whose error over examples is known
    (analysis.examples).
    """

    selector: str
    budget: int | float | str
    selection_seed: int
    training_seed: int
    metrics: Mapping[str, float]
    influences: Mapping[str, Sequence[float]] = {}

    @property
    def seeds(self) -> Seeds:
        return self.selection_seed, self.training_seed


def outcomes_of(records: Sequence[ArmRecord], metric: Metric) -> list[Outcome]:
    """Return the arms of records of one budget and match, with one metric."""
    found = []
    for r in records:
        influences = influences_of(r, metric.key)
        found.append(
            Outcome(
                r["method"],
                r["budget"],
                r["selection_seed"],
                r["training_seed"],
                {metric.key: value_of(r, metric.key)},
                {} if influences is None else {metric.key: influences},
            )
        )
    return found


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
    # Standard error of the difference that the examples cause for all seeds alike; None: unknown.
    over_examples: float | None = None
    signs_p: float | None = None  # exact, by flipping signs; not corrected
    margin: float | None = None  # within which the two would count as equal
    equal_p: float | None = None  # of being within it; adjusted once judged
    within: float | None = None  # the smallest margin that is shown at 5%, not corrected

    @property
    def units(self) -> int:
        """The number of independent pairs: pairs that share a seed count once."""
        return min(self.selection_seeds, self.training_seeds)

    @property
    def over_seeds(self) -> float | None:
        """The standard error of the difference without what the examples add to it."""
        error = self.difference.standard_error
        if error is None or self.over_examples is None:
            return error
        return math.sqrt(max(0.0, error**2 - self.over_examples**2))

    @property
    def p_of_verdict(self) -> float | None:
        """The p of the verdict, after Holm's correction: of equality, or of a difference."""
        return self.equal_p if self.verdict == "equal" else self.adjusted_p

    @property
    def is_reference(self) -> bool:
        """Whether the arm is no selector: all the data, no training, another amount of random."""
        return self.method.startswith(REFERENCES)


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


def rows(
    arms: Sequence[Outcome],
    metric: str,
    baseline: str = "random",
    margin: float | str | None = None,
) -> list[Row]:
    """Return one row per selector, in order of appearance, from the arms of one budget, without
    verdicts.

    Means and standard errors are over all runs of a method. They are not finite if a value is not.
    margin: of equality, in units of the metric, or such as "1%" of the mean of the baseline's
    finite values; none if it has none. Raises ValueError for several budgets, a missing baseline,
    an arm without the metric, or two arms of a selector with the same seeds.
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
    if isinstance(margin, str):
        values = [arm.metrics[metric] for arm in arms if arm.selector == baseline]
        finite = [value for value in values if math.isfinite(value)]
        percent, margin = float(margin.rstrip("% ")), None
        if finite:
            margin = percent / 100 * abs(math.fsum(finite) / len(finite))
    return [_row(arms, metric, method, baseline, margin) for method in methods]


def _row(
    arms: Sequence[Outcome], metric: str, method: str, baseline: str, margin: float | None
) -> Row:
    mine = {arm.seeds: arm.metrics[metric] for arm in arms if arm.selector == method}
    pairs = paired(arms, method, baseline)
    found = paired_differences(arms, metric, method, baseline)
    mean, standard_error, *_ = interval(mine.values(), mine)
    error = of_examples(arms, metric, method, baseline)
    row = Row(
        method=method,
        runs=len(mine),
        mean=mean,
        standard_error=standard_error,
        difference=interval(found.values(), found, error),
        pairs=len(found),
        left_out=len(pairs) - len(found),
        selection_seeds=len({selection for selection, _ in found}),
        training_seeds=len({training for _, training in found}),
        adjusted_p=None,
        verdict=None if method == baseline else "no verdict",
        over_examples=None if error is None else math.sqrt(error.variance),
        signs_p=p_of_signs(found) if found else None,
        margin=margin,
        within=least_margin(found.values(), found, error),
    )
    if row.is_reference:
        return row._replace(verdict="reference")
    if margin is None or row.verdict is None:
        return row
    return row._replace(equal_p=p_of_equality(found.values(), margin, found, error))


def of_examples(
    arms: Sequence[Outcome], metric: str, method: str, baseline: str
) -> OverExamples | None:
    """Return the variance of the mean difference that the evaluation examples cause for all seeds
    alike; None if a pair's influences are not known."""
    found: dict[Seeds, list[float]] = {}
    for mine, other in paired(arms, method, baseline):
        if not math.isfinite(mine.metrics[metric] - other.metrics[metric]):
            continue
        ours, theirs = mine.influences.get(metric), other.influences.get(metric)
        if ours is None or theirs is None or len(ours) != len(theirs):
            return None
        found[mine.seeds] = [x - y for x, y in zip(ours, theirs, strict=True)]
    return shared(found) if found else None
