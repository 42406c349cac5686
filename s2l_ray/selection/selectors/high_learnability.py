"""What the proxy learned most."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class HighLearnability(Rank):
    """The proxy stands for both models of the source."""

    rule = "largest fall of the loss from before training to its end"
    source = "Zhou et al. 2023 (LoBaSS), arXiv 2310.13008"
    before = True

    def score(self, known: Known) -> np.ndarray:
        assert known.before_N is not None
        return known.losses_NT[:, -1] - known.before_N.astype(np.float64)
