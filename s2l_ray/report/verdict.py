"""The comparison of a run's selector with the baseline: arms paired by seed, table and verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.analysis.equality import p_of_signs
from s2l_ray.analysis.examples import shared
from s2l_ray.analysis.paired import paired
from s2l_ray.analysis.statistics import MIN_UNITS, Interval, interval
from s2l_ray.formatting import measured, plural, plus_minus, signed, span
from s2l_ray.report.html import name

if TYPE_CHECKING:
    from s2l_ray.report.data import Arm


MAX_TOKEN_GAP = 0.02  # of two subsets that count as equal in tokens


class Summary(NamedTuple):
    """One selector over its seeds. `difference` is selector − baseline, paired by seed."""

    selector: str
    n_seeds: int
    n_examples: str  # "1,100" or a range
    n_tokens: str  # of the subset
    n_steps: str
    mean: float | None
    standard_error: float | None
    difference: float | None
    difference_error: float | None
    n_pairs: int


def differences(pairs: Sequence[tuple[Arm, Arm]], source: str | None = None) -> list[float]:
    """Return the differences in held-out loss, main − baseline, of pairs with finite losses."""

    def loss(arm: Arm) -> float:
        return arm.loss if source is None else arm.loss_by_source.get(source, math.nan)

    found = [loss(main) - loss(baseline) for main, baseline in pairs]
    return [difference for difference in found if math.isfinite(difference)]


def over_pairs(pairs: Sequence[tuple[Arm, Arm]]) -> Interval:
    """Return the mean difference in held-out loss of pairs with finite losses, with its interval
    over seeds and, if their influences are known, over held-out examples."""
    finite = [(main, base) for main, base in pairs if math.isfinite(main.loss - base.loss)]
    found = {
        main.seeds: [x - y for x, y in zip(main.influences, base.influences, strict=True)]
        for main, base in finite
        if main.influences and len(main.influences) == len(base.influences)
    }
    known = shared(found) if found and len(found) == len(finite) else None
    return interval(differences(finite), examples=known)


def summarize(arms: Sequence[Arm], baseline: str) -> list[Summary]:
    """Return one row per selector, in order of appearance."""
    rows = []
    for selector in dict.fromkeys(arm.selector for arm in arms):
        mine = [arm for arm in arms if arm.selector == selector]
        found = differences(paired(arms, selector, baseline))
        examples = span([arm.n_examples for arm in mine])
        tokens = span([arm.n_tokens for arm in mine])
        steps = span([arm.n_steps for arm in mine])
        mean, error, *_ = interval([arm.loss for arm in mine])
        difference, difference_error, *_ = interval(found)
        numbers = (mean, error, difference, difference_error, len(found))
        rows.append(Summary(selector, len(mine), examples, tokens, steps, *numbers))
    return rows


def means(
    arms: Sequence[Arm], values: Callable[[Arm], Mapping[str, float]]
) -> dict[str, list[tuple[float | None, float | None]]]:
    """Return name -> mean and standard error of each selector, in the order of `summarize`."""
    selectors = list(dict.fromkeys(arm.selector for arm in arms))
    found: dict[str, dict[str, list[float]]] = {}
    for arm in arms:
        for metric, value in values(arm).items():
            found.setdefault(metric, {s: [] for s in selectors})[arm.selector].append(value)
    return {metric: [interval(each[s])[:2] for s in selectors] for metric, each in found.items()}


def other_measures(arms: Sequence[Arm]) -> list[str]:
    """Return one line per other metric, with mean ± standard error of each selector."""
    selectors = dict.fromkeys(arm.selector for arm in arms)
    found = []
    for metric, cells in means(arms, lambda arm: arm.others).items():
        shown = (f"{s} {plus_minus(*cell)}" for s, cell in zip(selectors, cells, strict=True))
        found.append(f"{metric}: {', '.join(shown)}")
    return found


def verdict(arms: Sequence[Arm], *, main: str, baseline: str = "random") -> tuple[str, list[str]]:
    """Say whether `main` beat `baseline`, with the numbers; and what to know when reading them.

    With `MIN_UNITS` pairs or more, the verdict is that of the 95% interval over seeds and held-out
    examples (`over_pairs`). With fewer, or with the same difference in all pairs, there are numbers
    but no verdict.
    """
    if main == baseline:
        return f"The selector of this run is {baseline}, the baseline: there is no comparison.", []
    pairs = paired(arms, main, baseline)
    found = differences(pairs)
    told = _verdict(found, over_pairs(pairs), name(main), baseline)
    return told, _notes(pairs, len(pairs) - len(found))


def _verdict(found: Sequence[float], over: Interval, main: str, baseline: str) -> str:
    n = len(found)
    mean, error, low, high, _ = over
    if mean is None:
        return (
            f"Whether {main} helps was not measured: no pair of targets of {main} and {baseline} "
            "has the same seed and finite losses."
        )
    size = plus_minus(abs(mean), error)
    direction = "lower" if mean < 0 else "higher"
    basis = f"mean ± standard error over {n} pairs of targets with the same seed"
    signs = p_of_signs({(pair, pair): value for pair, value in enumerate(found)})
    if n < MIN_UNITS and signs is not None:
        basis += f"; with signs flipped at random, p = {signs:.3g}"
    if n == 1:
        basis = "one pair of targets with the same seed, so no standard error over seeds"
    if n < MIN_UNITS or error is None or low is None or high is None:
        lead = f"{main} did not beat {baseline} in this run" if mean >= 0 else "No verdict"
        gap = "the same as" if mean == 0 and not error else f"{size} {direction} than"
        needed = f"at least {MIN_UNITS} pairs" if n < MIN_UNITS else "some spread among the pairs"
        return (
            f"{lead}: the held-out loss of {main} is {gap} that of {baseline}. Basis: {basis}. "
            f"A verdict needs {needed}."
        )
    basis += f"; 95% interval {signed(low)} to {signed(high)}"
    if low <= 0 <= high:
        return (
            f"{main} is not distinguishable from {baseline}: its held-out loss differs by "
            f"{signed(mean)} ± {measured(error, 2)}. Basis: {basis}."
        )
    word = "better" if high < 0 else "worse"
    gap = f"its held-out loss is {size} {direction}"
    return f"{main} is {word} than {baseline}: {gap}. Basis: {basis}."


def _notes(pairs: Sequence[tuple[Arm, Arm]], n_left_out: int) -> list[str]:
    """Return what limits the verdict: the held-out examples, unequal training, one proxy."""
    found = []
    errors = [main.error_over_examples for main, _ in pairs]
    if known := [error for error in errors if error is not None and math.isfinite(error)]:
        found.append(
            "All targets see the same held-out examples; over them, one pair's difference "
            f"has a standard error of {measured(median(known), 2)}."
        )
    if any(main.n_steps != baseline.n_steps for main, baseline in pairs):
        found.append(f"The targets differ in steps: {_both(pairs, 'n_steps')}.")
    if any(abs(main.n_tokens / baseline.n_tokens - 1) > MAX_TOKEN_GAP for main, baseline in pairs):
        found.append(f"The subsets differ in tokens: {_both(pairs, 'n_tokens')}.")
    if len(pairs) > 1:
        found.append("All pairs share one proxy; jobs/compare.py trains one per seed.")
    if n_left_out:
        found.append(f"Left out because a loss is not finite: {plural(n_left_out, 'pair')}.")
    return found


def _both(pairs: Sequence[tuple[Arm, Arm]], field: str) -> str:
    sides = zip(*pairs, strict=True)
    return ", ".join(
        f"{name(arms[0].selector)} {span([getattr(arm, field) for arm in arms])}" for arms in sides
    )
