"""The middle of the perplexity, which orders examples as the loss does."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class MiddlePerplexity(Rank):
    rule = "nearest to the median loss at the last checkpoint"
    source = "Marion et al. 2023, arXiv 2309.04564"
    order = "middle"

    def score(self, known: Known) -> np.ndarray:
        return known.losses_NT[:, -1].astype(np.float64)
