"""Active learning's least confidence, token by token."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class LeastConfidence(Rank):
    """Confidence is the mean over response tokens of max_v p(v)."""

    rule = "lowest mean probability of the most likely token, at the last checkpoint"
    source = 'Settles 2009, "Active Learning Literature Survey", section 3.1'
    details = {"final": ("confidence",)}

    def score(self, known: Known) -> np.ndarray:
        return known.final["confidence"].astype(np.float64)
