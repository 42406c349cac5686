"""The cost of a selection, and what training on its subset saves.

Costs are the floating-point operations of passes through a model: 6 per weight and trained token, 2
per weight and scored token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). A trained token
takes 4 if only adapters are trained: frozen weights get no gradient. Weights are those
that a token is multiplied with (models.properties.parameters_at_work): all but the input
embeddings. The output head counts at label tokens only. Kaplan et al. leave it out, but it is a
large part of a small proxy. Subsets and targets are assumed to have the corpus's share of label
tokens.

Not counted: padding, adapters, the products of queries with keys and of attention weights with
values, k-means, coverage of features (facility_location, k_center), what signals take beyond the
forward pass, and the draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from s2l_ray.config.prices import PricesConfig
from s2l_ray.formatting import duration, percent, short

SIZES = {"1B": 1e9, "8B": 8e9, "70B": 70e9}  # parameters of targets that are told about
WORTHS = (1.1, 1.5, 2.0)  # times as much random data


class Step(NamedTuple):
    """One stage of the selection. None is unknown; flops of None: no pass through a model.

    cpu_seconds, gpu_seconds: summed over the stage's workers, busy or idle.
    """

    stage: str
    seconds: float | None
    cpu_seconds: float | None
    gpu_seconds: float | None
    flops: float | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a selection, and of training the target on the subset and on the corpus.

    - Tokens are those of the proxy's tokenizer.
    - epochs: of the target, the same on subset and corpus. None if it trains for a fixed number of
      steps, on trained_tokens.
    - adapters: the target trains adapters alone.
    - like_proxy: no target is configured, so the epochs are the proxy's.
    - trained_elsewhere: the run did not train the proxy, so what that cost is not known.
    - parameters, target: of the target, if it was trained on the subset. Parameters are counted by
      `parameters_at_work`.
    - prices: of processors; None prints no money.
    """

    steps: list[Step]
    corpus_tokens: int
    subset_tokens: int
    epochs: float | None
    adapters: bool = False
    like_proxy: bool = False
    trained_elsewhere: bool = False
    parameters: int | None = None
    trained_tokens: float | None = None
    target: Step | None = None
    prices: PricesConfig | None = None

    @property
    def flops(self) -> float:
        return sum(step.flops or 0.0 for step in self.steps)

    @property
    def against_random(self) -> AgainstRandom | None:
        """The price beside a random subset; None if it is not known."""
        tokens = self.trained_tokens
        if self.epochs is not None:
            tokens = self.epochs * self.subset_tokens
        if self.trained_elsewhere or not tokens:
            return None
        return AgainstRandom(self.flops, tokens, self.adapters, self.parameters)

    @property
    def taken(self) -> str:
        """What selection and target took of processors, and in money, as far as it was measured."""
        known = [step for step in self.steps if step.cpu_seconds is not None]
        if not known:
            return ""
        least = "at least " if len(known) < len(self.steps) else ""
        text = f"The selection took {least}{self._told(known)}."
        if self.target is None or not _seconds([self.target], _on_gpus([self.target])):
            return text
        text += f" Training on the subset took {self._told([self.target])}"
        if (share := self._share(known, self.target)) is None:
            return f"{text}."
        by, more = share
        return f"{text}: by {by}, the subset must be worth {least}{times(1 + more)}."

    def _share(self, steps: list[Step], target: Step) -> tuple[str, float] | None:
        """What the steps took as a share of what the target took, and of what: time, or price if
        one of the two took no GPU time. None if that has no prices."""
        on_gpus = _on_gpus(steps)
        if on_gpus == _on_gpus([target]):
            return "time", _seconds(steps, on_gpus) / _seconds([target], on_gpus)
        if self.prices is None or not self.prices.gpu_hour or not self.prices.cpu_hour:
            return None
        return "price", _money(steps, self.prices) / _money([target], self.prices)

    def _told(self, steps: list[Step]) -> str:
        on_gpus = _on_gpus(steps)
        text = f"{duration(_seconds(steps, on_gpus))} of {'GPU' if on_gpus else 'CPU'} time"
        if self.prices is None:
            return text
        money = _money(steps, self.prices)
        amount = f"{money:,.2f}" if money >= 0.01 or not money else "less than 0.01"
        return f"{text} ({amount} {self.prices.currency})"

    @property
    def break_even(self) -> float | None:
        """The size of the target, in parameters, above which selection pays: selection and training
        on the subset cost less than training on the corpus. None if the subset saves nothing."""
        saved = (self.epochs or 0.0) * (self.corpus_tokens - self.subset_tokens)
        if saved <= 0 or self.trained_elsewhere:
            return None
        return self.flops / training_flops(1, saved, self.adapters)

    @property
    def on_subset(self) -> float | None:
        return self._target(self.subset_tokens)

    @property
    def on_corpus(self) -> float | None:
        return self._target(self.corpus_tokens)

    def _target(self, tokens: int) -> float | None:
        if self.parameters is None or self.epochs is None:
            return None
        return training_flops(self.parameters, self.epochs * tokens, self.adapters)

    @property
    def summary(self) -> str:
        if self.trained_elsewhere:
            return (
                "The proxy was trained elsewhere, and what that cost is not counted. So it is not "
                "known for which targets the selection pays."
            )
        lead = f"The selection took {self.flops:.2e} floating-point operations."
        if self.epochs is None:
            return (
                f"{lead} The target trains for a fixed number of steps, so a subset saves nothing."
            )
        if self.break_even is None:
            return f"{lead} The subset has all tokens of the corpus, so it saves nothing."
        whose = "the proxy's, as no target is configured" if self.like_proxy else "the target's"
        text = (
            f"{lead} Training on the subset takes {percent(self.subset_tokens, self.corpus_tokens)}"
            f" of the operations of training on the corpus, with {self.epochs:.3g} epochs "
            f"({whose}). Selection and training on the subset together cost less than training on "
            f"the corpus if the target has more than {float(f'{self.break_even:.3g}'):,.0f} "
            "parameters."
        )
        if self.on_subset is None or self.on_corpus is None:
            return text
        saved = 1 - (self.flops + self.on_subset) / self.on_corpus
        change = f"{abs(saved):.1%} {'less' if saved > 0 else 'more'}"
        return f"{text} For this target ({self.parameters:,} parameters) they cost {change}."


class AgainstRandom(NamedTuple):
    """What a selection costs beside a random subset of the same size, which costs nothing.

    flops: of the selection. parameters: of the target, None if there is none. subset_tokens: that
    the target trains on in all its epochs.
    """

    flops: float
    subset_tokens: float
    adapters: bool = False
    parameters: int | None = None

    @property
    def worth(self) -> float | None:
        """See worth_for; None without a target."""
        if not self.parameters or not self.subset_tokens:
            return None
        return self.worth_for(self.parameters)

    def worth_for(self, parameters: float) -> float:
        """How many times as much random data the subset must be worth to pay: for the price of the
        selection, a target of this size could train on so many times as many random examples."""
        return 1 + self.flops / training_flops(parameters, self.subset_tokens, self.adapters)

    def break_even(self, worth: float) -> float:
        """The size of the target, in parameters, from which on a subset pays that is worth so many
        times as much random data."""
        return self.flops / (training_flops(1, self.subset_tokens, self.adapters) * (worth - 1))

    @property
    def sentences(self) -> list[str]:
        """Say what the subset must be worth for some targets, and which targets pay."""
        if not self.flops:
            return ["The selection passes nothing through a model: it costs what random does."]
        worths = [f"{times(self.worth_for(p))} for {n}" for n, p in SIZES.items()]
        smallest = [f"{times(m)} from {short(self.break_even(m))}" for m in WORTHS]
        return [
            f"A random subset of the same size costs nothing to choose. To pay, the selected one "
            f"must be worth more random data: {', '.join(worths)} parameters.",
            f"The smallest target that pays, by what the subset is worth: {', '.join(smallest)} "
            f"parameters on.",
        ]


def times(worth: float) -> str:
    """Return such as ×1.5 or ×1.0034: what exceeds 1 with two significant digits."""
    if worth >= 1.1 or worth <= 1:
        return f"×{worth:.3g}"
    return f"×{worth:.{min(9, 1 - math.floor(math.log10(worth - 1)))}f}"


def _on_gpus(steps: list[Step]) -> bool:
    return any(step.gpu_seconds for step in steps)


def _seconds(steps: list[Step], on_gpus: bool) -> float:
    return sum((step.gpu_seconds if on_gpus else step.cpu_seconds) or 0.0 for step in steps)


def _money(steps: list[Step], prices: PricesConfig) -> float:
    on_gpus, on_cpus = _seconds(steps, True), _seconds(steps, False)
    return (on_gpus * prices.gpu_hour + on_cpus * prices.cpu_hour) / 3600


def training_flops(parameters: float, tokens: float, adapters: bool) -> float:
    return (4.0 if adapters else 6.0) * parameters * tokens


def scoring_flops(parameters: float, tokens: float) -> float:
    return 2.0 * parameters * tokens
