"""Uniform random selection: the baseline that a method has to beat."""

from __future__ import annotations

import numpy as np


def uniform(sizes: np.ndarray, sources: list[str | None], budget: int) -> np.ndarray:
    """All examples are one group: take `budget` of them, uniformly without replacement."""
    return np.minimum(sizes, budget)
