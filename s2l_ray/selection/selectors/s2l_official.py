"""S2L as the official code has it (github.com/BigML-CS-UCLA/S2L, schedules/s2l.py)."""

from __future__ import annotations

import numpy as np


def s2l_official(sizes: np.ndarray, sources: list[str | None], budget: int) -> np.ndarray:
    """Equal budgets for the sources, then for the clusters inside each.

    Sources are served smallest first, each with floor(left / sources left) or all it has. Inside a
    source, clusters of more than two members likewise; clusters of one or two members only top up
    what is left after those, by id (the official code draws from all their members). Sources and
    clusters of equal size: by name, by id.

    sizes int64 [G] and sources [G] of the clusters; returns quotas int64 [G].
    """
    _, owner = np.unique([source or "" for source in sources], return_inverse=True)
    quotas = np.zeros_like(sizes)
    shares = _spread(np.bincount(owner, weights=sizes).astype(np.int64), budget)
    for index, share in enumerate(shares.tolist()):
        mine = np.flatnonzero(owner == index)
        usual = mine[sizes[mine] > 2]
        quotas[usual] = _spread(sizes[usual], share)
        left = share - int(quotas[usual].sum())
        for group in mine[sizes[mine] <= 2]:
            quotas[group] = min(int(sizes[group]), left)
            left -= int(quotas[group])
    return quotas


def _spread(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Smallest first: floor(left / groups left), or all of a group that has no more."""
    quotas = np.zeros_like(sizes)
    order = np.argsort(sizes, kind="stable")
    for place, group in enumerate(order):
        quotas[group] = min(int(sizes[group]), budget // (len(order) - place))
        budget -= int(quotas[group])
    return quotas
