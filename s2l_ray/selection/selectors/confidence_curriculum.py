"""Where a curriculum by confidence begins: the easiest examples."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class ConfidenceCurriculum(Rank):
    """Score 1 - (confidence at the first + confidence at the last checkpoint) / 2, easiest first.

    Our reading of a curriculum as a selector. The source orders training examples by difficulty
    scores of a model; the budget says how far the curriculum goes. S2L's published code has no such
    selector to compare with.
    """

    rule = "highest confidence, mean of the first and the last checkpoint: a curriculum's beginning"
    source = "after Varshney, Mishra, Baral 2022, arXiv 2205.09898"
    details = {"early": ("confidence",), "final": ("confidence",)}

    def score(self, known: Known) -> np.ndarray:
        early, final = (
            each["confidence"].astype(np.float64) for each in (known.early, known.final)
        )
        return 1 - (early + final) / 2
