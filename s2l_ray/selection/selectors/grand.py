"""The norm of the gradient."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class GraNd(Rank):
    """||1/m sum_t (p_t - onehot(y_t)) h_t^T||_F over m response tokens: the gradient for the output
    head's weight alone. The source takes all weights and averages over ten models."""

    rule = "largest gradient of the output head at the first checkpoint (GraNd)"
    source = "Paul, Ganguli, Dziugaite 2021, arXiv 2107.07075"
    details = {"early": ("grad_norm",)}

    def score(self, known: Known) -> np.ndarray:
        return -known.early["grad_norm"].astype(np.float64)
