"""Least confidence at the first checkpoint."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class LeastConfidenceEarly(Rank):
    rule = "lowest mean probability of the most likely token, at the first checkpoint"
    source = 'Settles 2009, "Active Learning Literature Survey", section 3.1'
    details = {"early": ("confidence",)}

    def score(self, known: Known) -> np.ndarray:
        return known.early["confidence"].astype(np.float64)
