"""A uniform order of examples, and the exact cut of a group to its quota."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chosen:
    """The chosen examples in rank order: by place within their group, then by group. [B] each."""

    example_id: np.ndarray  # int64
    group: np.ndarray  # int32
    place: np.ndarray  # int64, 0 for the first drawn of a group


def keys(example_id: np.ndarray, seed: int) -> np.ndarray:
    """Return a uniform 64-bit key per example from seed and id (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        z = example_id.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return z ^ (z >> np.uint64(31))


def cut(
    example_id: np.ndarray, group: np.ndarray, score: np.ndarray, quotas: np.ndarray, seed: int
) -> Chosen:
    """Take the first `quotas[g]` of each group, by score, then by key. The candidates may be any
    superset of the answer."""
    order = np.lexsort((example_id, keys(example_id, seed), score, group))
    example_id, group = example_id[order], group[order]
    starts = np.searchsorted(group, np.arange(len(quotas)))
    place = np.arange(len(group)) - starts[group]
    taken = place < quotas[group]
    example_id, group, place = example_id[taken], group[taken], place[taken]
    rank = np.lexsort((group, place))
    return Chosen(example_id[rank], group[rank], place[rank])
