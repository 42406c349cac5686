"""Did a run's selector beat the baseline? Arms paired by seed, as a table and in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.analysis.paired import paired
from s2l_ray.analysis.statistics import MIN_UNITS, interval
from s2l_ray.formatting import plural, plus_minus, signed, span

if TYPE_CHECKING:
    from s2l_ray.report.data import Arm


class Summary(NamedTuple):
    """One selector over its seeds; `difference` is paired by seed, selector − baseline."""

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
    """Held-out loss, main − baseline, of the pairs in which both are finite."""

    def loss(arm: Arm) -> float:
        return arm.loss if source is None else arm.loss_by_source.get(source, math.nan)

    found = [loss(main) - loss(baseline) for main, baseline in pairs]
    return [difference for difference in found if math.isfinite(difference)]


def summarize(arms: Sequence[Arm], baseline: str) -> list[Summary]:
    """One row per selector, in order of appearance."""
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
    """Name -> mean and standard error over seeds of each selector, in the order of `summarize`."""
    selectors = list(dict.fromkeys(arm.selector for arm in arms))
    found: dict[str, dict[str, list[float]]] = {}
    for arm in arms:
        for name, value in values(arm).items():
            found.setdefault(name, {s: [] for s in selectors})[arm.selector].append(value)
    return {name: [interval(each[s])[:2] for s in selectors] for name, each in found.items()}


def other_measures(arms: Sequence[Arm]) -> list[str]:
    """What else was measured, a line each: mean ± standard error over seeds of each selector."""
    selectors = dict.fromkeys(arm.selector for arm in arms)
    found = []
    for name, cells in means(arms, lambda arm: arm.others).items():
        shown = (f"{s} {plus_minus(*cell)}" for s, cell in zip(selectors, cells, strict=True))
        found.append(f"{name}: {', '.join(shown)}")
    return found


def verdict(arms: Sequence[Arm], *, main: str, baseline: str = "random") -> str:
    """Did `main` beat `baseline`? In plain words, with the numbers, and no more than they carry.

    From five pairs on, a difference counts if the 95% interval (Student's t over the pairs) leaves
    out zero; with fewer, or with the same difference in all of them, which tells nothing of the
    noise, the numbers are given without a verdict.
    """
    if main == baseline:
        return f"The selector of this run is {baseline}, the baseline: nothing to compare it with."
    pairs = paired(arms, main, baseline)
    found = differences(pairs)
    n, n_left_out = len(found), len(pairs) - len(found)
    notes = _costs_note(pairs)
    if len(pairs) > 1:
        notes += " All pairs have one proxy; jobs/compare.py trains one for each seed."
    if n_left_out:
        notes += f" Left out: {plural(n_left_out, 'pair')} in which a loss is not finite."
    mean, error, low, high, _ = interval(found)
    if mean is None:
        return (
            f"Whether {main} helps was not measured: there is no pair of targets of {main} and "
            f"{baseline} with the same seed and finite losses.{notes}"
        )
    size = f"{abs(mean):.4f}" + ("" if error is None else f" ± {error:.4f}")
    heldout = "on the same held-out examples"
    errors = [main.error_over_examples for main, _ in pairs]
    known = [each for each in errors if each is not None and math.isfinite(each)]
    if known:
        heldout += f", over which one pair's difference has a standard error of {median(known):.4f}"
    basis = f"mean ± standard error over {n} pairs of targets with the same seed, all {heldout}"
    direction = "lower" if mean < 0 else "higher"
    if n < MIN_UNITS or error is None or low is None or high is None:
        if n == 1:
            basis = "one pair of targets with the same seed, so no standard error over seeds"
            basis += f", {heldout}"
        lead = f"{main} did not beat {baseline} here" if mean >= 0 else "No verdict"
        gap = "the same as" if mean == 0 and not error else f"{size} {direction} than"
        wanted = f"at least {MIN_UNITS}" if n < MIN_UNITS else "some spread among them"
        return (
            f"{lead}: the held-out loss of {main} is {gap} that of {baseline} ({basis}). "
            f"{'One pair' if n == 1 else f'{n} pairs'} cannot support a verdict about which of "
            f"the two is better; that takes {wanted}.{notes}"
        )
    reach = f"95% interval {signed(low)} to {signed(high)}"
    if high < 0:
        return (
            f"{main} beat {baseline}: its held-out loss is {size} lower ({basis}; {reach}).{notes}"
        )
    if low > 0:
        return (
            f"{main} did NOT beat {baseline}; it is worse: its held-out loss is {size} higher "
            f"({basis}; {reach}).{notes}"
        )
    return (
        f"{main} did not beat {baseline} beyond noise: its held-out loss differs by "
        f"{signed(mean)} ± {error:.4f} ({basis}; {reach}, which holds zero).{notes}"
    )


def _costs_note(pairs: Sequence[tuple[Arm, Arm]]) -> str:
    """What else differs between the two: steps at all, tokens by more than 2%."""
    note = ""
    if any(main.n_steps != baseline.n_steps for main, baseline in pairs):
        mine, other = (span([pair[side].n_steps for pair in pairs]) for side in (0, 1))
        note += f" Mind that they trained for unequal numbers of steps ({mine} against {other})."
    if any(abs(main.n_tokens / baseline.n_tokens - 1) > 0.02 for main, baseline in pairs):
        mine, other = (span([pair[side].n_tokens for pair in pairs]) for side in (0, 1))
        note += f" Mind that their subsets have unequal numbers of tokens ({mine} against {other})."
    return note
