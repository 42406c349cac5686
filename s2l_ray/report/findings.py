"""What the numbers of a run say about trajectories, clusters and subset, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.formatting import measured, plural, share

if TYPE_CHECKING:
    from s2l_ray.report.data import ReportData


def findings(data: ReportData) -> list[str]:
    """Return one finding per sentence or two. What was not measured is left out."""
    given = [*data.weights, *data.purpose, *data.near_duplicates]
    return given + [text for check in (_trajectories, _partition) for text in check(data)]


def _trajectories(data: ReportData) -> list[str]:
    found = []
    level = data.explained_variance_level
    if level is not None:
        reading = "The shape of a trajectory counts at least as much as its level"
        if level >= 0.9:
            reading = "Clusters are close to strata of the loss; the shape of a curve adds little"
        elif level >= 0.5:
            reading = "Clusters are ordered by level first and by shape second"
        found.append(f"{share(level)} of the variance of the trajectories is the loss level.")
        found.append(f"{reading}.")
    if data.loss_quantiles_5T is not None and len(data.loss_quantiles_5T[2]) > 1:
        first, last = float(data.loss_quantiles_5T[2][0]), float(data.loss_quantiles_5T[2][-1])
        if last < first:
            found.append(
                f"The median loss fell from {measured(first)} at the first checkpoint to "
                f"{measured(last)} at the last."
            )
    return found


def _partition(data: ReportData) -> list[str]:
    found = []
    above = data.share_above_quota
    if above is not None:
        text = f"{share(above)} of the clusters are larger than their quota"
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
        found.append(text + ".")
        if data.inertia is not None and data.n_iter is not None:
            found.append(
                f"k-means ended at inertia {measured(data.inertia)} after "
                f"{plural(data.n_iter, 'iteration')}."
            )
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
                f"The adjusted Rand index with another k-means seed is {measured(rand, 2)}."
            )
            found.append(f"{reading}.")
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
        f"Rare examples are {reading}: {share(small)} chosen from the smaller half of the "
        f"clusters, {share(large)} from the larger."
    )
