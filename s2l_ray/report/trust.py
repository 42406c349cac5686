"""The first screen of a run's page: what was chosen, from what, whether to trust it, and alarms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from s2l_ray.analysis.paired import paired
from s2l_ray.analysis.statistics import MIN_UNITS
from s2l_ray.config import BASELINE
from s2l_ray.formatting import measured, plural, share, signed
from s2l_ray.report.html import name
from s2l_ray.report.verdict import differences, over_pairs

if TYPE_CHECKING:
    from s2l_ray.report.data import ReportData


def chosen(data: ReportData) -> str:
    """Say how many examples were chosen, of how many that could be, and how."""
    if not data.n_subset:
        return f"No subset has been chosen yet of {plural(data.n_corpus, 'example')}."
    of = f"{data.n_candidates:,} examples"
    if data.n_unlabelled:
        of = f"the {of} that have a response token"
    part = share(data.n_subset, data.n_candidates)
    return f"{name(data.selector)} chose {data.n_subset:,} of {of}: {part}; budget {data.budget}."


def source_mix(data: ReportData) -> str:
    """Say which sources the subset comes from, and how far its mix is from the corpus's."""
    corpus, subset = data.corpus_by_source, data.subset_by_source or {}
    n_sources = len(corpus)
    if not data.n_subset or n_sources < 2:
        return f"The corpus has {plural(n_sources, 'source')}."
    absent = sum(1 for each, n in corpus.items() if n and not subset.get(each))
    moved = sum(
        abs(subset.get(each, 0) / data.n_subset - corpus.get(each, 0) / data.n_corpus)
        for each in corpus.keys() | subset.keys()
    )
    whence = f"all {n_sources:,} sources"
    if absent:
        whence = f"{n_sources - absent:,} of {n_sources:,} sources"
    return (
        f"They come from {whence}, in a mix that differs from the corpus’s by {share(moved / 2)}."
    )


def trust(data: ReportData) -> tuple[str, str]:
    """Say whether the subset helped, in one sentence, and how sure that is: "good", "bad" or
    "unsure"."""
    main = data.selector
    if main == BASELINE:
        return f"Nothing to compare: {BASELINE} is the baseline itself.", "unsure"
    pairs = paired(data.arms, main, BASELINE)
    found = differences(pairs)
    mean, _, low, high, _ = over_pairs(pairs)
    if mean is None:
        return (
            "Whether they help was not measured: no target was trained on them and on random ones."
        ), "unsure"
    basis = plural(len(found), "pair")
    change = "lower" if mean < 0 else "higher"
    if len(found) < MIN_UNITS or low is None or high is None:
        lead = "Not yet shown to help" if mean < 0 else "Do not trust it yet"
        needed = f"a verdict needs {MIN_UNITS}" if len(found) < MIN_UNITS else "without any spread"
        gap = f"{measured(abs(mean))} {change} than" if mean else "the same as"
        return (f"{lead}: held-out loss is {gap} with random examples ({basis}; {needed})."), (
            "unsure" if mean < 0 else "bad"
        )
    basis = f"95% interval {signed(low)} to {signed(high)}, {basis}"
    if low <= 0 <= high:
        return (
            f"Not shown to help: held-out loss differs by {signed(mean)} from that with random "
            f"examples ({basis})."
        ), "unsure"
    lead, tone = ("Trust it", "good") if high < 0 else ("Do not use it", "bad")
    return (
        f"{lead}: held-out loss is {measured(abs(mean))} {change} than with random examples "
        f"({basis})."
    ), tone


def alarms(data: ReportData) -> list[tuple[str, str]]:
    """Return what may make the selection worthless: a headline, and what to do."""
    found = [(each.headline, each.advice) for each in data.alarms]
    if lost := sum(1 for arm in data.arms if not math.isfinite(arm.loss)):
        found.append(
            (
                f"{plural(lost, 'target')} diverged",
                "A held-out loss is not finite. Lower target.learning_rate.",
            )
        )
    return found
