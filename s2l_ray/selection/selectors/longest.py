"""Long responses first."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class Longest(Rank):
    rule = "most response tokens, of those that prompt.max_length leaves"
    source = "Zhao et al. 2024, arXiv 2402.04833"

    def score(self, known: Known) -> np.ndarray:
        return -known.num_label_tokens_N.astype(np.float64)
