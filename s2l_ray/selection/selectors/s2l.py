"""S2L as the paper has it (arXiv 2403.07384, Algorithm 1)."""

from __future__ import annotations

import numpy as np


def s2l(sizes: np.ndarray, sources: list[str | None], budget: int) -> np.ndarray:
    """Spread the budget evenly over all clusters; a cluster smaller than its share gives all.

    Clusters are served in rounds, one example from each that has any left, in cluster order. The
    counts are those of the paper's loop (smallest cluster first, an equal share of what is left)
    up to one per cluster, and grow with the budget.

    sizes int64 [K]; returns quotas int64 [K] that sum to min(budget, sum of sizes).
    """
    budget = min(budget, int(sizes.sum()))
    # The largest number of whole rounds that the budget pays for.
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        rounds = (low + high + 1) // 2
        if int(np.minimum(sizes, rounds).sum()) <= budget:
            low = rounds
        else:
            high = rounds - 1
    quotas = np.minimum(sizes, low)
    left = budget - int(quotas.sum())
    quotas[np.flatnonzero(sizes > low)[:left]] += 1
    return quotas
