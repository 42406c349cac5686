"""What the numbers of a run say, in words: pure functions, no drawing.

Lower loss is better. Selectors are compared by pairs of arms with the same seed; a difference is
always main − baseline, so that a negative one is in favour of the main selector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.formatting import plural

if TYPE_CHECKING:
    from s2l_ray.report.data import ReportData


def findings(data: ReportData) -> list[str]:
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
