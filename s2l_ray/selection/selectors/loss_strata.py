"""Strata of the mean loss."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection import quotas
from s2l_ray.selection.kinds import Draw, Known


class LossStrata(Draw):
    """Spread the budget evenly over clusters.n_clusters quantile bins of the mean loss.

    The bins are of equal size, so every example is as likely as with random: this is a stratified
    random sample. Tells what a sample that is balanced in the loss is worth. S2L's clusters are
    not of equal size; its control by the level of the loss is loss_kmeans.
    """

    rule = "a random sample, stratified by the mean loss into clusters.n_clusters equal bins"
    groups = "strata"
    control_for, control_words = "s2l", "strata of the mean loss, of equal size"

    def score(self, known: Known) -> np.ndarray:
        return known.losses_NT.mean(axis=1, dtype=np.float64)

    def quotas(self, sizes, sources, budget, like=None):
        return quotas.even(sizes, budget)
