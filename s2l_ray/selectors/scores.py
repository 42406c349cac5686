"""Scores of examples: what the selectors that rank, or that draw from strata, look at.

Each is a function of what is known of N examples. Its selector takes the smallest scores first,
those next to the median first ("middle"), or equal shares of strata by the score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Known:
    """Of N examples: the proxy's losses at T checkpoints, and before its training where asked."""

    losses_NT: np.ndarray
    num_label_tokens_N: np.ndarray
    before_N: np.ndarray | None = None


def mean_loss(known: Known) -> np.ndarray:
    """Mean of the proxy's losses over its checkpoints: S2L's strata without its clusters."""
    return known.losses_NT.mean(axis=1, dtype=np.float64)


def longest(known: Known) -> np.ndarray:
    """Minus the response tokens: the longest first (Zhao et al. 2024, arXiv 2402.04833)."""
    return -known.num_label_tokens_N.astype(np.float64)


def perplexity(known: Known) -> np.ndarray:
    """Under the proxy at its last checkpoint (Marion et al. 2023, arXiv 2309.04564): by the loss,
    of which it is the exponential, in the same order."""
    return known.losses_NT[:, -1].astype(np.float64)


def perplexity_early(known: Known) -> np.ndarray:
    """As perplexity, at the proxy's first checkpoint."""
    return known.losses_NT[:, 0].astype(np.float64)


def learnability(known: Known) -> np.ndarray:
    """loss after the proxy's training - loss before it: what fell most first (the reducible loss
    of Zhou et al. 2023, "LoBaSS", arXiv 2310.13008, with the proxy for both models)."""
    return known.losses_NT[:, -1] - _before(known)


def learnability_relative(known: Known) -> np.ndarray:
    """(loss after - loss before) / loss before: the form normalised by the loss before."""
    return learnability(known) / np.maximum(_before(known), 1e-12)


def _before(known: Known) -> np.ndarray:
    assert known.before_N is not None
    return known.before_N.astype(np.float64)
