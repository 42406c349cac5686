"""The smallest EL2N."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known
from s2l_ray.selection.selectors.el2n import EL2N


class EL2NBottom(EL2N):
    rule = "smallest EL2N at the first checkpoint"
    source = "Marion et al. 2023, arXiv 2309.04564"

    def score(self, known: Known) -> np.ndarray:
        return -super().score(known)
