"""How a budget is divided among groups. All take sizes int64 [G] and return quotas int64 [G]."""

from __future__ import annotations

import numpy as np


def uniform(sizes: np.ndarray, budget: int) -> np.ndarray:
    """All examples are one group: take `budget` of them."""
    return np.minimum(sizes, budget)


def even(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Spread the budget evenly; a group smaller than its share gives all it has.

    Groups are served in rounds, one example from each that has any left, in group order. The counts
    equal those of the S2L paper's loop (arXiv 2403.07384, Algorithm 1: smallest cluster first, an
    equal share of what is left) up to one per group, and they grow with the budget.
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


def in_shares(
    sizes: np.ndarray, budget: int, weight_G: np.ndarray, *, least: int = 0
) -> np.ndarray:
    """Divide the budget in proportion to weights; a group smaller than its share gives all it has.

    least: what each group gives at least, or all it has; the budget must be enough for that.

    The counts are Webster's: they never shrink as the budget grows, and they equal the weights if
    the budget is their sum. What the groups with a weight cannot give comes from the others in even
    shares.
    """
    budget = min(budget, int(sizes.sum()))
    if not weight_G.any():
        return even(sizes, budget)

    def rounded(seats: float) -> np.ndarray:
        shares = np.minimum(np.floor(weight_G * seats + 0.5), sizes)  # before int64 overflows
        return np.maximum(shares.astype(np.int64), np.minimum(sizes, least))

    low, high = 0.0, (float(sizes.max()) + 1) / float(weight_G[weight_G > 0].min())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if rounded(middle).sum() <= budget else (low, middle)
    # Stop a little short: if several groups reach the next count together, the first gets it first.
    quotas = rounded(low * (1 - 1e-9))
    while quotas.sum() < budget:
        next_G = np.where(quotas < sizes, weight_G / (quotas + 0.5), 0.0)
        if not next_G.any():
            return quotas + even(sizes - quotas, budget - int(quotas.sum()))
        quotas[next_G.argmax()] += 1
    return quotas


def neyman(sizes: np.ndarray, budget: int, weight_G: np.ndarray) -> np.ndarray:
    """Divide the budget in proportion to weights, at least one to each group.

    A group without any could not be weighted up in training. If the budget is smaller than the
    number of groups, those with the largest weights give one each. The quotas never shrink as the
    budget grows.
    """
    budget = min(budget, int(sizes.sum()))
    some = np.flatnonzero(sizes)
    if budget >= len(some):
        return in_shares(sizes, budget, weight_G.astype(np.float64), least=1)
    quotas = np.zeros_like(sizes)
    quotas[some[np.argsort(-weight_G[some], kind="stable")][:budget]] = 1
    return quotas


def weights(sizes: np.ndarray, quotas: np.ndarray) -> np.ndarray:
    """Return how many examples of its group each chosen one stands for, float64 [G]; 0 for groups
    that none is chosen from.

    With these weights in training, groups count as they do among the candidates.
    """
    return np.where(quotas > 0, sizes, 0) / np.maximum(quotas, 1)


def toward(sizes: np.ndarray, budget: int, counts_G: np.ndarray, share: float) -> np.ndarray:
    """Spread (1 - share) of the budget evenly, and the rest in proportion to counts_G.

    counts_G: examples of a purpose in each group. The quotas are at least the even ones of the
    smaller budget, and they never shrink as the budget grows.
    """
    budget = min(budget, int(sizes.sum()))
    of_purpose = int(np.floor(share * budget + 0.5))
    spread = even(sizes, budget - of_purpose)
    return spread + in_shares(sizes - spread, of_purpose, counts_G.astype(np.float64))


def by_source_then_cluster(sizes: np.ndarray, sources: list[str | None], budget: int) -> np.ndarray:
    """Give sources equal budgets, then the clusters within each (the official S2L code).

    Sources are served smallest first, each with floor(left / sources left) or all it has. Within a
    source, clusters of more than two members are served likewise. Clusters of one or two members
    only top up what is left after those, by id (the official code draws from all their members).
    Ties: sources by name, clusters by id.
    """
    _, owner = np.unique([source or "" for source in sources], return_inverse=True)
    quotas = np.zeros_like(sizes)
    shares = _smallest_first(np.bincount(owner, weights=sizes).astype(np.int64), budget)
    for index, share in enumerate(shares.tolist()):
        mine = np.flatnonzero(owner == index)
        usual = mine[sizes[mine] > 2]
        quotas[usual] = _smallest_first(sizes[usual], share)
        left = share - int(quotas[usual].sum())
        for group in mine[sizes[mine] <= 2]:
            quotas[group] = min(int(sizes[group]), left)
            left -= int(quotas[group])
    return quotas


def _smallest_first(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Smallest first: floor(left / groups left), or all of a group that has no more."""
    quotas = np.zeros_like(sizes)
    order = np.argsort(sizes, kind="stable")
    for place, group in enumerate(order):
        quotas[group] = min(int(sizes[group]), budget // (len(order) - place))
        budget -= int(quotas[group])
    return quotas
