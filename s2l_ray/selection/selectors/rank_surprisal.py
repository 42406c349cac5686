"""What is both unlikely and within the proxy's reach."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class RankSurprisal(Rank):
    """The sum of min(rank, 100) over response tokens, over the sum of their losses.

    Low: tokens that are unlikely (a large loss) but among the first that the proxy would take (a
    small rank). The paper's student has not been trained on the examples; the first checkpoint is
    nearest to it.
    """

    rule = (
        "smallest ratio of the response tokens' ranks (at most 100) to their losses, at the first "
        "checkpoint"
    )
    source = "Yang et al. 2026, arXiv 2601.14249"
    details = {"early": ("rank",)}

    def score(self, known: Known) -> np.ndarray:
        losses_N = known.losses_NT[:, 0].astype(np.float64)
        return known.early["rank"].astype(np.float64) / np.maximum(losses_N, 1e-12)
