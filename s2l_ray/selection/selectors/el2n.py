"""The error of the predicted probabilities."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class EL2N(Rank):
    """Mean over response tokens of ||p - onehot(y)||_2. The source averages over ten models."""

    rule = "largest error of the probabilities (EL2N) at the first checkpoint"
    source = "Paul, Ganguli, Dziugaite 2021, arXiv 2107.07075"
    details = {"early": ("el2n",)}

    def score(self, known: Known) -> np.ndarray:
        return -known.early["el2n"].astype(np.float64)
