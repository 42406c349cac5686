"""What the numbers of a run say, in words: pure functions, no drawing.

Lower loss is better. Selectors are compared by pairs of arms with the same seed; a difference is
always main − baseline, so that a negative one is in favour of the main selector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from s2l_ray.analysis.paired import paired
from s2l_ray.analysis.statistics import MIN_UNITS, interval
from s2l_ray.formatting import plural, plus_minus, signed, span

if TYPE_CHECKING:
    from s2l_ray.report.data import Arm, ReportData


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


def others_in_words(arms: Sequence[Arm]) -> list[str]:
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


def diagnostics(data: ReportData) -> list[str]:
    """Plain sentences about the trajectories, the clusters and the subset of a run."""
    return [sentence for check in (_trajectories, _partition, _mix) for sentence in check(data)]


def _trajectories(data: ReportData) -> list[str]:
    found = []
    if data.n_left_out and data.steps is not None and data.agreement is not None:
        have = len(data.steps)
        found.append(
            f"Scoring stopped after {have} of {have + data.n_left_out} checkpoints, which spared "
            f"{data.n_left_out / (have + data.n_left_out):.0%} of it: the last two changed "
            f"the clusters no more than was asked for (adjusted Rand index {data.agreement:.3f} "
            f"with and without the last)."
        )
    level = data.explained_variance_level
    if level is not None:
        reading = "the shape of a trajectory counts at least as much as its level"
        if level >= 0.9:
            reading = "clusters are close to loss strata, and the shape of a curve adds little"
        elif level >= 0.5:
            reading = "clusters are ordered by loss first, by the shape of the curve second"
        found.append(
            f"{level:.1%} of the variance of the trajectories is the loss level (the first "
            f"principal component): {reading}."
        )
    if data.loss_quantiles_5T is not None and len(data.loss_quantiles_5T[2]) > 1:
        first, last = float(data.loss_quantiles_5T[2][0]), float(data.loss_quantiles_5T[2][-1])
        found.append(
            f"The median loss fell from {first:.3f} at the first checkpoint to {last:.3f} at the "
            "last."
            if last < first
            else f"The median loss did not fall (first checkpoint {first:.3f}, last {last:.3f}): "
            "the proxy learned little, so its trajectories say little about the examples."
        )
    return found


def _partition(data: ReportData) -> list[str]:
    found = []
    above = data.share_above_quota
    if above is not None:
        reading = "most clusters are taken whole, and the budget goes to what is rare"
        if above >= 0.9:
            lead = f"Nearly every cluster ({above:.1%}) is larger than its quota"
            reading = "hardly one is taken whole"
        else:
            lead = f"{above:.1%} of the clusters are larger than their quota"
            if above >= 0.5:
                reading = "those are sampled, the smaller ones are taken whole"
        found.append(f"{lead}: {reading}.")
    if data.cluster_sizes is not None and len(data.cluster_sizes):
        sizes = np.asarray(data.cluster_sizes)
        if data.cluster_chosen is not None and (held := sizes > 0).sum() > 1:
            found.append(_favour(sizes[held], np.asarray(data.cluster_chosen)[held]))
        text = (
            f"{plural(len(sizes), 'cluster')}, of {int(sizes.min()):,} to "
            f"{int(sizes.max()):,} examples (median {float(np.median(sizes)):,.0f})"
        )
        if (tiny := int((sizes <= 2).sum())) > 0:
            text += f"; {tiny:,} of them with two examples or fewer"
        if data.inertia is not None:
            text += f"; k-means inertia {data.inertia:,.6g}"
        if data.n_iter is not None:
            text += f" after {plural(data.n_iter, 'iteration')}"
        found.append(text + ".")
        rand = data.adjusted_rand
        if rand is None:
            found.append("How far the partition depends on the k-means seed was not measured.")
        else:
            reading = "it depends strongly on the seed, so single clusters mean little"
            if rand >= 0.9:
                reading = "it hardly depends on the seed"
            elif rand >= 0.7:
                reading = "it depends on the seed to some extent"
            found.append(f"Adjusted Rand index with another k-means seed {rand:.2f}: {reading}.")
    return found


def _favour(sizes_K: np.ndarray, chosen_K: np.ndarray) -> str:
    """How much likelier what is in small clusters was chosen than what is in large ones."""
    rising = np.argsort(sizes_K, kind="stable")
    halves = np.array_split(rising, [len(rising) // 2])
    small, large = (float(chosen_K[half].sum() / sizes_K[half].sum()) for half in halves)
    text = (
        f"Of the examples in the smaller half of the clusters {small:.1%} were chosen, of those "
        f"in the larger half {large:.1%}"
    )
    reading = "what is rare is favoured"
    if small < 1.1 * large:
        reading = "what is rare is not favoured"
    elif small < 2 * large:
        reading = "what is rare is favoured a little"
    return f"{text}: {reading}."


def _mix(data: ReportData) -> list[str]:
    found = []
    corpus, subset = data.corpus_by_source, data.subset_by_source
    n_corpus, n_subset = sum(corpus.values()), sum((subset or {}).values())
    if subset and n_subset and n_corpus and len(corpus) > 1:
        moved = sum(
            abs(subset.get(s, 0) / n_subset - corpus.get(s, 0) / n_corpus)
            for s in corpus.keys() | subset.keys()
        )
        text = f"The mix of sources in the subset is {moved / 2:.1%} away from the corpus"
        text += " (total variation)"
        if absent := sum(1 for s, n in corpus.items() if n and not subset.get(s)):
            text += f"; {plural(absent, 'source')} of {len(corpus)} gave nothing"
        found.append(text + ".")
    if n_corpus and data.n_truncated / n_corpus >= 0.05:
        found.append(
            f"{data.n_truncated / n_corpus:.1%} of the corpus was truncated: losses and training "
            "see only the beginning of these examples."
        )
    return found


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
