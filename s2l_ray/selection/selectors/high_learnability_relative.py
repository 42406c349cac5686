"""What the proxy learned most, relative to where it began."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known
from s2l_ray.selection.selectors.high_learnability import HighLearnability


class HighLearnabilityRelative(HighLearnability):
    rule = "largest fall of the loss as a share of the loss before training"

    def score(self, known: Known) -> np.ndarray:
        assert known.before_N is not None
        return super().score(known) / np.maximum(known.before_N.astype(np.float64), 1e-12)
