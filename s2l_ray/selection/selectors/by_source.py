"""Random selections of a given composition: they tell what a method's mix of sources is worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from s2l_ray.selection.selectors.s2l import s2l


def balanced(sizes: np.ndarray, sources: list[str | None], budget: int) -> np.ndarray:
    """Equal shares per source, uniform inside; a source smaller than its share gives all."""
    return s2l(sizes, sources, budget)


def shares(
    sizes: np.ndarray,
    sources: list[str | None],
    budget: int,
    weights: Mapping[str, int] | None = None,
) -> np.ndarray:
    """The source shares of another selection, uniform inside: composition without its trajectories.

    weights: examples by source of that selection; unless given, the corpus's own. The counts are
    Webster's, which never fall as the budget grows and are `weights` itself where the budget is
    its sum. What the weighted sources cannot give comes from the others in equal shares.
    """
    budget = min(budget, int(sizes.sum()))
    weight = sizes if weights is None else [weights.get(source or "", 0) for source in sources]
    weight_G = np.asarray(weight, np.float64)

    if not weight_G.any():
        return s2l(sizes, sources, budget)

    def rounded(seats: float) -> np.ndarray:
        return np.minimum(sizes, np.floor(weight_G * seats + 0.5).astype(np.int64))

    low, high = 0.0, (float(sizes.max()) + 1) / float(weight_G[weight_G > 0].min())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rounded(middle).sum() <= budget else (low, middle)
    # A little less: of groups that reach the next count at the same moment, the first comes first.
    quotas = rounded(low * (1 - 1e-9))
    while quotas.sum() < budget:
        next_G = np.where(quotas < sizes, weight_G / (quotas + 0.5), 0.0)
        if not next_G.any():
            return quotas + s2l(sizes - quotas, sources, budget - int(quotas.sum()))
        quotas[next_G.argmax()] += 1
    return quotas
