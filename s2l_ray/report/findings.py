"""What the numbers of a run say about trajectories, clusters and subset, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.formatting import percent, plural

if TYPE_CHECKING:
    from s2l_ray.report.data import ReportData


def findings(data: ReportData) -> list[str]:
    """Return one finding per sentence or two. What was not measured is left out."""
    return [text for check in (_trajectories, _partition, _mix) for text in check(data)]


def _trajectories(data: ReportData) -> list[str]:
    found = []
    level = data.explained_variance_level
    if level is not None:
        reading = "The shape of a trajectory counts at least as much as its level"
        if level >= 0.9:
            reading = "Clusters are close to strata of the loss; the shape of a curve adds little"
        elif level >= 0.5:
            reading = "Clusters are ordered by level first and by shape second"
        found.append(
            f"{percent(level)} of the variance of the trajectories is the loss level (the first "
            f"principal component). {reading}."
        )
    if data.loss_quantiles_5T is not None and len(data.loss_quantiles_5T[2]) > 1:
        first, last = float(data.loss_quantiles_5T[2][0]), float(data.loss_quantiles_5T[2][-1])
        found.append(
            f"The median loss fell from {first:.3f} at the first checkpoint to {last:.3f} at the "
            "last."
            if last < first
            else f"The median loss did not fall (first checkpoint {first:.3f}, last {last:.3f}). "
            "The proxy learned little, so its trajectories say little about the examples."
        )
    return found


def _partition(data: ReportData) -> list[str]:
    found = []
    above = data.share_above_quota
    if above is not None:
        text = f"{percent(above)} of the clusters are larger than their quota"
        if above >= 0.9:
            found.append(f"{text}, so hardly any cluster is chosen whole.")
        elif above >= 0.5:
            found.append(f"{text} and are sampled. The others are chosen whole.")
        else:
            found.append(f"{text}. Most are chosen whole, which favours rare examples.")
    if data.cluster_sizes is not None and len(data.cluster_sizes):
        sizes = np.asarray(data.cluster_sizes)
        if data.cluster_chosen is not None and (held := sizes > 0).sum() > 1:
            found.append(_favour(sizes[held], np.asarray(data.cluster_chosen)[held]))
        text = (
            f"{plural(len(sizes), 'cluster')} of {int(sizes.min()):,} to {int(sizes.max()):,} "
            f"examples (median {float(np.median(sizes)):,.0f})"
        )
        if (tiny := int((sizes <= 2).sum())) > 0:
            text += f", {tiny:,} of them with at most two"
        if data.inertia is not None:
            text += f"; k-means inertia {data.inertia:,.6g}"
        if data.n_iter is not None:
            text += f" after {plural(data.n_iter, 'iteration')}"
        found.append(text + ".")
        rand = data.adjusted_rand
        if rand is None:
            found.append("How much the clusters depend on the k-means seed was not measured.")
        else:
            reading = "The clusters depend strongly on the seed, so single clusters mean little"
            if rand >= 0.9:
                reading = "The clusters hardly depend on the seed"
            elif rand >= 0.7:
                reading = "The clusters depend somewhat on the seed"
            found.append(
                f"The adjusted Rand index with another k-means seed is {rand:.2f}. {reading}."
            )
    return found


def _favour(sizes_K: np.ndarray, chosen_K: np.ndarray) -> str:
    """Compare the share chosen from the smaller half of the clusters with the larger half."""
    rising = np.argsort(sizes_K, kind="stable")
    halves = np.array_split(rising, [len(rising) // 2])
    small, large = (float(chosen_K[half].sum() / sizes_K[half].sum()) for half in halves)
    reading = "favoured"
    if small < 1.1 * large:
        reading = "not favoured"
    elif small < 2 * large:
        reading = "slightly favoured"
    return (
        f"In the smaller half of the clusters {percent(small)} of the examples were chosen, in the "
        f"larger half {percent(large)}: rare examples are {reading}."
    )


def _mix(data: ReportData) -> list[str]:
    found = []
    corpus, subset = data.corpus_by_source, data.subset_by_source
    n_corpus, n_subset = sum(corpus.values()), sum((subset or {}).values())
    if subset and n_subset and n_corpus and len(corpus) > 1:
        moved = sum(
            abs(subset.get(s, 0) / n_subset - corpus.get(s, 0) / n_corpus)
            for s in corpus.keys() | subset.keys()
        )
        text = f"The mix of sources in the subset differs from the corpus by {percent(moved / 2)}"
        text += " (total variation distance)"
        if absent := sum(1 for s, n in corpus.items() if n and not subset.get(s)):
            text += f"; {absent:,} of {plural(len(corpus), 'source')} contributed no example"
        found.append(text + ".")
    if n_corpus and data.n_truncated / n_corpus >= 0.05:
        found.append(
            f"{percent(data.n_truncated, n_corpus)} of the corpus was truncated. Losses and "
            "training see only the beginning of these examples."
        )
    if n_corpus and data.n_unlabelled / n_corpus >= 0.05:
        found.append(
            f"{percent(data.n_unlabelled, n_corpus)} of the corpus has no response token left, so "
            "it is neither trained on nor chosen. If it was truncated, raise prompt.max_length."
        )
    return found
