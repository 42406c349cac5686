"""The middle of the perplexity at the first checkpoint."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class MiddlePerplexityEarly(Rank):
    rule = "nearest to the median loss at the first checkpoint"
    source = "Marion et al. 2023, arXiv 2309.04564"
    order = "middle"

    def score(self, known: Known) -> np.ndarray:
        return known.losses_NT[:, 0].astype(np.float64)
