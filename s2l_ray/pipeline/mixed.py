"""A selector's subset with the source shares of another."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.config import SelectionConfig, SelectorName
from s2l_ray.errors import TooFew
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.pipeline.subset import choose_subset
from s2l_ray.selection.kinds import Cluster, Cover, Draw, Selector
from s2l_ray.selection.quotas import even
from s2l_ray.selection.selectors import selector_named
from s2l_ray.selection.shares import take_shares
from s2l_ray.store import Manifest
from s2l_ray.store.views import SelectionView

MOST = 8  # times the budget that a subset is looked for in; each try is a whole choice

_SIZES = np.array([1, 2, 4, 8, 16])  # of groups that tell whether a selector draws in rounds


def check_shares(selector: SelectorName) -> None:
    """Refuse a selector whose order within a source is not known."""
    kind = selector_named(selector)
    if isinstance(kind, Cover):
        raise ValueError(
            f"compare.shares: {selector} chooses greedily for one budget, so it has no order from "
            "which another mix of sources could be taken: leave it out"
        )
    if not _draws_in_rounds(kind):
        raise ValueError(
            f"compare.shares: {selector} does not draw one example per group and round, so its "
            "subset is not the beginning of a larger one, from which another mix of sources could "
            "be taken: leave it out"
        )


def _draws_in_rounds(kind: Selector) -> bool:
    """Whether the first examples of a larger subset, which is in rounds, are a smaller subset."""
    if kind.toward == "shares":
        return False
    if not isinstance(kind, Cluster) and not (isinstance(kind, Draw) and kind.groups == "strata"):
        return True  # one group, or one per source
    return all(
        np.array_equal(kind.quotas(_SIZES, [None] * len(_SIZES), budget), even(_SIZES, budget))
        for budget in range(1, int(_SIZES.sum()))
    )


def subset_in_shares(view: Run, selector: SelectorName, like: SelectorName, count: int) -> Manifest:
    """Return `selector`'s subset with the sources of `like`'s subset of `count` examples.

    Smaller budgets nest in larger ones, so a selector orders all its candidates. From each source,
    the first in this order are taken, from a budget that has enough of each. TooFew if none of up
    to `MOST` times `count` has.
    """
    seed = view.config.seed

    def chosen(name: SelectorName, budget: int) -> Manifest:
        choice = SelectionConfig(selector=name, budget=budget, seed=seed)
        return choose_subset(view, choice).manifest

    wanted = SelectionView(chosen(like, count)).by_source
    size, most = count, MOST * count
    while True:
        whole = SelectionView(chosen(selector, size))
        short = [name for name, n in wanted.items() if whole.by_source.get(name, 0) < n]
        if not short:
            break
        if size >= whole.candidates:
            raise TooFew(
                f"compare.shares: {selector} can choose {whole.by_source.get(short[0], 0):,} "
                f"examples of {short[0]}, but {like}'s share is {wanted[short[0]]:,}"
            )
        if size >= most:
            raise TooFew(
                f"compare.shares: of {size:,} examples, {MOST} times the budget, {selector} "
                f"chooses {whole.by_source.get(short[0], 0):,} of {short[0]}, but {like}'s share "
                f"is {wanted[short[0]]:,}"
            )
        size = min(2 * size, most, whole.candidates)
    stage_of = view.plan

    def make(run: Run, **where: Any) -> Manifest:
        return take_shares(
            run.store,
            whole.manifest,
            wanted,
            like=like,
            tokens=run.get(stage_of.tokens),
            **where,
        )

    name = f"{selector}-in-shares-of-{like}"
    stage = Stage(
        f"selections/{selection_name(name, seed)}",
        alone(make),
        inputs=(Stage.given(whole.manifest),),
        settings=("shares", like, wanted),
        reads=(stage_of.corpus, stage_of.tokens),
    )
    return view.get(stage)
