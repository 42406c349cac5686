"""What the proxy learned most between its checkpoints, relative to the first."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class LossDrop(Rank):
    """(first loss - last loss) / first loss: as `high_learnability_relative`, without a pass of the
    untrained proxy."""

    rule = "largest fall of the loss from the first checkpoint to the last, as a share of the first"
    source = "after the loss drop of Yang, He, Cheng 2026, arXiv 2605.09404, on the corpus's path"

    def score(self, known: Known) -> np.ndarray:
        losses_NT = known.losses_NT.astype(np.float64)
        return losses_NT[:, -1] / np.maximum(losses_NT[:, 0], 1e-12) - 1
