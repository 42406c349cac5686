"""Instruction-following difficulty: how little the prompt helps."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.kinds import Known, Rank


class IFD(Rank):
    """The loss of the response given its prompt, over its loss without the prompt. Above 1 the
    prompt misleads; the source drops such examples, here they come last."""

    rule = "largest instruction-following difficulty (loss with over loss without prompt), up to 1"
    source = "Li et al. 2023, arXiv 2308.12032, who first train the model on a sample"
    without_prompt = True

    def score(self, known: Known) -> np.ndarray:
        assert known.without_prompt_N is not None
        alone_N = np.maximum(known.without_prompt_N.astype(np.float64), 1e-12)
        difficulty_N = known.losses_NT[:, -1] / alone_N
        return np.where(difficulty_N > 1, difficulty_N, -difficulty_N)
