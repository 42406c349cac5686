"""Selection methods. Each says which groups of examples it draws from, and how many from each.

A selector is deterministic given its quotas: inside a group the examples with the smallest keys,
key = hash(seed, example_id), are taken, which is a uniform draw without replacement. Quotas that
never fall as the budget grows make every smaller budget nest in every larger one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from s2l_ray.selectors.s2l import s2l
from s2l_ray.selectors.s2l_official import s2l_official
from s2l_ray.selectors.uniform import uniform

# (sizes int64 [G], the source of each group (None when groups cross sources), budget) -> int64 [G]
Quotas = Callable[[np.ndarray, list[str | None], int], np.ndarray]


@dataclass(frozen=True)
class Selector:
    """groups: all examples in one, k-means clusters, or clusters found inside each source."""

    groups: Literal["all", "clusters", "clusters_by_source"]
    quotas: Quotas


SELECTORS = {
    "s2l": Selector("clusters", s2l),
    "s2l_official": Selector("clusters_by_source", s2l_official),
    "random": Selector("all", uniform),
}
