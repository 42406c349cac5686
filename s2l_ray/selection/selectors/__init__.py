"""Selection methods. Each says which groups of examples it draws from, how many from each, and in
which order.

Inside a group the examples with the smallest keys, key = hash(seed, example_id), are taken, which
is a uniform draw without replacement; a selector that ranks takes the smallest scores, equal ones
by that key. Quotas that never fall as the budget grows make every smaller budget nest in every
larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from s2l_ray.selection.selectors import scores
from s2l_ray.selection.selectors.by_source import balanced, shares
from s2l_ray.selection.selectors.s2l import s2l
from s2l_ray.selection.selectors.s2l_official import s2l_official
from s2l_ray.selection.selectors.uniform import uniform

BINS = 256  # of a group's examples: by a key's top bits, or between quantiles of the score


# (sizes int64 [G], the source of each group (None when groups cross sources), budget) -> int64 [G]
Quotas = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Selector:
    """How a subset comes about.

    groups: all examples in one; k-means clusters of the trajectories, of those of each source
    apart, of the falls of the losses from checkpoint to checkpoint, of the examples whose loss
    fell, or of the features at the last checkpoint; the sources; or strata, clusters.n_clusters
    bins between quantiles of the score.
    order: of a group, a uniform draw, the smallest scores, or those nearest to the median.
    before: the score asks for the losses of the proxy before its training.
    details: the columns beside the losses (details.py) that the selector asks for, at the proxy's
    first ("early") or last ("final") checkpoint.
    like: takes the tokens or the source shares of another selection, selection.like.
    covers: the order is a greedy one that covers the features at the last checkpoint, by the rule
    of the selector's name in selectors/coverage.py; it is made for one budget.
    """

    groups: Literal[
        "all", "clusters", "clusters_by_source", "clusters_of_falls", "clusters_of_features",
        "sources", "strata",
    ]  # fmt: skip
    quotas: Quotas
    order: Literal["draw", "smallest", "middle"] = "draw"
    score: Callable[[scores.Known], np.ndarray] | None = None
    before: bool = False
    like: Literal["tokens", "shares"] | None = None
    details: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    covers: bool = False

    @property
    def clustered(self) -> bool:
        return self.groups.startswith("clusters")

    @property
    def ranked(self) -> bool:
        """Whether its groups or its order are a stage of their own, a ranking."""
        return self.score is not None or self.groups == "sources" or self.covers


SELECTORS = {
    "s2l": Selector("clusters", s2l),
    "s2l_official": Selector("clusters_by_source", s2l_official),
    "prune_then_cluster": Selector("clusters_of_falls", s2l),
    "random": Selector("all", uniform),
    "random_balanced": Selector("sources", balanced),
    "random_shares": Selector("sources", shares, like="shares"),
    "random_tokens": Selector("all", uniform, like="tokens"),
    "loss_strata": Selector("strata", s2l, score=scores.mean_loss),
    "longest": Selector("all", uniform, "smallest", scores.longest),
    "middle_perplexity": Selector("all", uniform, "middle", scores.perplexity),
    "middle_perplexity_early": Selector("all", uniform, "middle", scores.perplexity_early),
    "high_learnability": Selector("all", uniform, "smallest", scores.learnability, before=True),
    "high_learnability_relative": Selector(
        "all", uniform, "smallest", scores.learnability_relative, before=True
    ),
    "least_confidence": Selector(
        "all", uniform, "smallest", scores.confidence, details={"final": ("confidence",)}
    ),
    "least_confidence_early": Selector(
        "all", uniform, "smallest", scores.confidence_early, details={"early": ("confidence",)}
    ),
    "confidence_curriculum": Selector(
        "all",
        uniform,
        "smallest",
        scores.difficulty,
        details={"early": ("confidence",), "final": ("confidence",)},
    ),
    "el2n": Selector("all", uniform, "smallest", scores.largest_el2n, details={"early": ("el2n",)}),
    "el2n_middle": Selector("all", uniform, "middle", scores.el2n, details={"early": ("el2n",)}),
    "el2n_bottom": Selector("all", uniform, "smallest", scores.el2n, details={"early": ("el2n",)}),
    "grand": Selector("all", uniform, "smallest", scores.grand, details={"early": ("grad_norm",)}),
    "facility_location": Selector(
        "all", uniform, "smallest", details={"final": ("features",)}, covers=True
    ),
    "k_center": Selector("all", uniform, "smallest", details={"final": ("features",)}, covers=True),
    "embedding_clusters": Selector("clusters_of_features", s2l, details={"final": ("features",)}),
}
