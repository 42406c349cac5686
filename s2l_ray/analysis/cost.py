"""What a selection cost, and what training on its subset spares.

Floating-point operations of passes through a model alone: 6 for each weight and token trained on,
2 for each scored (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Weights are those that a
token is multiplied with (models.parameters_at_work): all but the input embeddings, and with the
output head, which Kaplan et al. leave out and which is much of a small proxy, at label tokens; the
share of those in the corpus holds for subsets and targets too. Left out: padding, the products of
attention itself, k-means, coverage (facility_location, k_center), what details take beside the
forward pass, and the draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Step(NamedTuple):
    """A stage of the selection. None: not known, or (flops) without a pass through a model.

    cpu_seconds, gpu_seconds: of all its workers together, whether busy or not.
    """

    stage: str
    seconds: float | None
    cpu_seconds: float | None
    gpu_seconds: float | None
    flops: float | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a selection, against the training of a target.

    Tokens are those of the proxy's tokenizer. epochs: of the target, on the subset and on the
    corpus alike; None if it trains for a fixed number of steps. like_proxy: no target is
    configured, and the epochs are the proxy's. parameters, seconds: of the target, once trained on
    the subset, as `parameters_at_work` counts.
    """

    steps: list[Step]
    corpus_tokens: int
    subset_tokens: int
    epochs: float | None
    like_proxy: bool = False
    parameters: int | None = None
    seconds: float | None = None

    @property
    def flops(self) -> float:
        return sum(step.flops or 0.0 for step in self.steps)

    @property
    def break_even(self) -> float | None:
        """Parameters of the target from which on selection and training on the subset cost less
        than training on the corpus; None if nothing is spared."""
        spared = (self.epochs or 0.0) * (self.corpus_tokens - self.subset_tokens)
        return self.flops / training_flops(1, spared) if spared > 0 else None

    @property
    def on_subset(self) -> float | None:
        return self._target(self.subset_tokens)

    @property
    def on_corpus(self) -> float | None:
        return self._target(self.corpus_tokens)

    def _target(self, tokens: int) -> float | None:
        if self.parameters is None or self.epochs is None:
            return None
        return training_flops(self.parameters, self.epochs * tokens)

    @property
    def summary(self) -> str:
        lead = f"The selection took {self.flops:.2e} floating-point operations."
        if self.epochs is None:
            return f"{lead} The target trains for a fixed number of steps: a subset spares none."
        if self.break_even is None:
            return f"{lead} The subset has all tokens of the corpus: it spares none."
        whose = "the proxy's: no target is configured" if self.like_proxy else "the target's"
        text = (
            f"{lead} For {self.epochs:.3g} epochs ({whose}) training on the subset takes "
            f"{self.subset_tokens / self.corpus_tokens:.1%} of what the corpus takes: selection "
            f"and training together cost less than training on the corpus for a target of more "
            f"than {float(f'{self.break_even:.3g}'):,.0f} parameters."
        )
        if self.on_subset is None or self.on_corpus is None:
            return text
        spared = 1 - (self.flops + self.on_subset) / self.on_corpus
        less = "less" if spared > 0 else "more"
        return f"{text} For this one, of {self.parameters:,}, it is {abs(spared):.1%} {less}."


def training_flops(parameters: float, tokens: float) -> float:
    return 6.0 * parameters * tokens


def scoring_flops(parameters: float, tokens: float) -> float:
    return 2.0 * parameters * tokens
