"""Scores of examples: what the selectors that rank, or that draw from strata, look at.

Each is a function of what is known of N examples. Its selector takes the smallest scores first,
those next to the median first ("middle"), or equal shares of strata by the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Known:
    """Of N examples: the proxy's losses at T checkpoints, and before its training where asked.

    early, final: details (details.py) at its first and last checkpoint by name, those asked for.
    """

    losses_NT: np.ndarray
    num_label_tokens_N: np.ndarray
    before_N: np.ndarray | None = None
    early: Mapping[str, np.ndarray] = field(default_factory=dict)
    final: Mapping[str, np.ndarray] = field(default_factory=dict)


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
    """loss after the proxy's training - loss before it: what fell most first (the learnability
    of Zhou et al. 2023, "LoBaSS", arXiv 2310.13008, with the proxy for both models)."""
    return known.losses_NT[:, -1] - _before(known)


def learnability_relative(known: Known) -> np.ndarray:
    """(loss after - loss before) / loss before: the form normalised by the loss before."""
    return learnability(known) / np.maximum(_before(known), 1e-12)


def confidence(known: Known) -> np.ndarray:
    """Mean over response tokens of max_v p(v), the probability of the most likely token, under the
    proxy at its last checkpoint: active learning's least confidence (Settles 2009, "Active Learning
    Literature Survey", section 3.1), token by token."""
    return known.final["confidence"].astype(np.float64)


def confidence_early(known: Known) -> np.ndarray:
    """As confidence, at the proxy's first checkpoint."""
    return known.early["confidence"].astype(np.float64)


def difficulty(known: Known) -> np.ndarray:
    """1 - (confidence at the first + confidence at the last checkpoint of the proxy) / 2: the
    easiest examples first, which is where a curriculum begins; the budget tells how far it goes.

    Our reading of a curriculum as a selector, after Varshney, Mishra, Baral 2022, "Let the Model
    Decide its Curriculum for Multitask Learning" (arXiv 2205.09898), who order training examples by
    difficulty scores of a model. The published code of S2L has none to compare it with."""
    return 1 - (confidence_early(known) + confidence(known)) / 2


def el2n(known: Known) -> np.ndarray:
    """EL2N (Paul, Ganguli, Dziugaite 2021, "Deep Learning on a Data Diet", arXiv 2107.07075), mean
    over response tokens of ||p - onehot(y)||_2, under the proxy at its first checkpoint. The paper
    averages over ten models; Marion et al. 2023 (arXiv 2309.04564, for language models) take top,
    middle and bottom of it."""
    return known.early["el2n"].astype(np.float64)


def largest_el2n(known: Known) -> np.ndarray:
    """Minus EL2N: the largest first, as its paper has it."""
    return -el2n(known)


def grand(known: Known) -> np.ndarray:
    """Minus the norm of the gradient of the example's loss under the proxy at its first checkpoint,
    the largest first: GraNd (Paul, Ganguli, Dziugaite 2021, arXiv 2107.07075), here of the output
    head's weight alone, ||1/m sum_t (p_t - onehot(y_t)) h_t^T||_F over m response tokens, where
    the paper has all weights and averages over ten models."""
    return -known.early["grad_norm"].astype(np.float64)


def _before(known: Known) -> np.ndarray:
    assert known.before_N is not None
    return known.before_N.astype(np.float64)
