"""S2L without clusters: strata of the mean loss."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection import quotas
from s2l_ray.selection.kinds import Draw, Known


class LossStrata(Draw):
    """Spread the budget evenly over clusters.n_clusters quantile bins of the mean loss. Tells what
    clusters add to the level of the loss."""

    rule = "equal shares from clusters.n_clusters strata of the mean loss: S2L without clusters"
    groups = "strata"
    control_for, control_words = "s2l", "strata of the mean loss instead of clusters"

    def score(self, known: Known) -> np.ndarray:
        return known.losses_NT.mean(axis=1, dtype=np.float64)

    def quotas(self, sizes, sources, budget, like=None):
        return quotas.even(sizes, budget)
