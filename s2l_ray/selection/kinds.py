"""The four kinds of selectors: draw, rank, cluster, cover; and one that takes another's subset.

A selector is a class in a file of its own, s2l_ray/selection/selectors/NAME.py. It states which
groups of examples it draws from, how many it takes from each, in which order, and what it needs to
know about the examples. The plan (pipeline/plan.py) derives the stages from that.

Within a group, the examples with the smallest keys, key = hash(seed, example_id), are taken: a
uniform draw without replacement. A selector that ranks takes the smallest scores first, ties by
key. Quotas never shrink as the budget grows, so every smaller budget nests in every larger one.

Shape suffixes: N examples, T checkpoints, G groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from s2l_ray.selection import quotas

BINS = 256  # per group at least: ranges of a key's top bits, or of quantiles of the score

OUT_OF_FOLD = ("clusters_out_of_fold", "clusters_of_learned")  # groups of Cluster, see there

# each_chunk(method, *args): the results of FeatureWork.method for every chunk, in row order.
EachChunk = Callable[..., list[Any]]


@dataclass(frozen=True)
class Known:
    """What is known about N examples.

    losses_NT: the proxy's losses at T checkpoints. before_N: its losses before training, for
    selectors with `before`. without_prompt_N: its losses at the last checkpoint of the responses
    without their prompts, for selectors with `without_prompt`. early, final: signals
    (models/signals.py) at the first and the last checkpoint by name, those in `details`.
    """

    losses_NT: np.ndarray
    num_label_tokens_N: np.ndarray
    before_N: np.ndarray | None = None
    without_prompt_N: np.ndarray | None = None
    early: Mapping[str, np.ndarray] = field(default_factory=dict)
    final: Mapping[str, np.ndarray] = field(default_factory=dict)


class Covered(NamedTuple):
    """The rows that a cover chose, in order, and what to record about them (JSON)."""

    rows: list[int]
    info: dict[str, Any]


class Selector(ABC):
    """What all kinds share. Derive from one of the four kinds below."""

    rule: str  # one line for people: what is chosen
    source: ClassVar[str] = ""  # where the rule comes from
    # Signals to compute beside the losses, at the proxy's first ("early") or last ("final")
    # checkpoint: {"early": ("el2n",)}.
    details: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    before: ClassVar[bool] = False  # needs the proxy's losses before training
    without_prompt: ClassVar[bool] = False  # needs the losses of the responses without prompts
    # Takes the tokens or the source shares from another selection, selection.like.
    like: ClassVar[Literal["tokens", "shares"] | None] = None
    # What it takes from the examples of selection.toward: their shares of the clusters, or the
    # trajectories along a training on them.
    toward: ClassVar[Literal["shares", "path"] | None] = None
    # The selector that this one is a control for ("like": the one it resembles), and what the
    # control keeps, in words. Comparisons then report the difference of the two.
    control_for: ClassVar[str] = ""
    control_words: ClassVar[str] = ""

    @abstractmethod
    def quotas(
        self,
        sizes: np.ndarray,
        sources: list[str | None],
        budget: int,
        like: Mapping[str, int] | None = None,
    ) -> np.ndarray:
        """How many examples to take from each group: int64 [G], sum min(budget, sum of sizes).

        sizes int64 [G]; sources [G]: the source of each group, None if groups cross sources; like:
        examples by source of the selection that this one is to resemble.
        """

    @abstractmethod
    def reason(self, group: int, source: str | None) -> str:
        """Why an example of this group was chosen; its number in the group follows."""


class Draw(Selector):
    """Draw uniformly from groups: all examples together, each source, or strata of a score."""

    groups: ClassVar[Literal["all", "sources", "strata"]] = "all"

    def quotas(self, sizes, sources, budget, like=None):
        return quotas.uniform(sizes, budget)

    def score(self, known: Known) -> np.ndarray:
        """The score [N] whose quantiles bound the strata."""
        raise AssertionError("only selectors with groups = 'strata' have a score")

    def reason(self, group: int, source: str | None) -> str:
        return {
            "all": "draw",
            "sources": f"source {source}, draw",
            "strata": f"stratum {group}, draw",
        }[self.groups]


class Rank(Selector):
    """Take the examples with the smallest scores, or those whose score is nearest to the median."""

    order: ClassVar[Literal["smallest", "middle"]] = "smallest"

    @abstractmethod
    def score(self, known: Known) -> np.ndarray:
        """The score of each example, float64 [N]."""

    def quotas(self, sizes, sources, budget, like=None):
        return quotas.uniform(sizes, budget)

    def reason(self, group: int, source: str | None) -> str:
        return "place"


class Cluster(Selector):
    """Draw from k-means clusters, by default the budget spread evenly over them."""

    # The stage of the clusters, by what is clustered:
    # - clusters: the trajectories
    # - clusters_by_source: each source's trajectories
    # - clusters_of_means: the mean losses
    # - clusters_of_falls: how much the loss falls between checkpoints, of examples whose loss fell
    # - clusters_of_features: the features at the last checkpoint
    # - clusters_out_of_fold: the trajectories by proxies that were not trained on the example
    # - clusters_of_learned: the same, of examples whose loss fell
    groups: ClassVar[
        Literal[
            "clusters",
            "clusters_by_source",
            "clusters_of_means",
            "clusters_of_falls",
            "clusters_of_features",
            "clusters_out_of_fold",
            "clusters_of_learned",
        ]
    ] = "clusters"
    init: ClassVar[str | None] = None  # of k-means, whatever clusters.init says
    # Clusters whose mean loss falls by less than this share over the checkpoints give nothing.
    least_fall: ClassVar[float] = 0.0
    # A signal in `details["early"]` whose root mean square in each cluster `quotas` takes as
    # spread_G. The chosen examples then get training weights, so that each cluster counts as it
    # does among the candidates.
    spread: ClassVar[str] = ""
    # The budget goes to clusters in proportion to their sizes to this power: selector NAME@ALPHA.
    alpha: float = 0.0

    def quotas(self, sizes, sources, budget, like=None):
        if self.alpha:
            return quotas.in_shares(sizes, budget, sizes**self.alpha)
        return quotas.even(sizes, budget)

    def reason(self, group: int, source: str | None) -> str:
        return f"cluster {group}, draw"


def gives_weights(selector: Selector) -> bool:
    """Whether the chosen examples have training weights."""
    return isinstance(selector, Cluster) and bool(selector.spread)


class Cover(Selector):
    """Choose greedily so that the features at the last checkpoint are covered, for one budget."""

    details = {"final": ("features",)}
    seeded: ClassVar[bool] = False  # the choice depends on selection.seed
    on_grid: ClassVar[bool] = False  # wants unit vectors rounded to a grid (selection/grid.py)

    @abstractmethod
    def cover(
        self,
        each_chunk: EachChunk,
        ids_N: np.ndarray,
        budget: int,
        seed: int,
        advance: Callable[[float], None],
    ) -> Covered:
        """Choose `budget` rows. advance(1) tells progress after each."""

    def quotas(self, sizes, sources, budget, like=None):
        return quotas.uniform(sizes, budget)

    def reason(self, group: int, source: str | None) -> str:
        return "place"


class Winner(Selector):
    """Take the subset of another selector, the winner of a race (pipeline/race.py)."""

    def quotas(self, sizes, sources, budget, like=None):
        return quotas.uniform(sizes, budget)

    def reason(self, group: int, source: str | None) -> str:
        return "of the winner"
