"""What a short training on the purpose teaches about an example."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class TowardPath(Rank):
    """(loss before - loss after) / loss before, where the training between is on the purpose's
    examples alone."""

    rule = (
        "largest fall of the loss, as a share of the loss before, over a short training on "
        "examples of the purpose (selection.toward) alone"
    )
    source = "Yang, He, Cheng 2026, arXiv 2605.09404"
    before = True
    toward = "path"

    def score(self, known: Known) -> np.ndarray:
        assert known.before_N is not None
        before_N = known.before_N.astype(np.float64)
        return (known.losses_NT[:, -1] - before_N) / np.maximum(before_N, 1e-12)
