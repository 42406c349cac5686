"""A selector's subset with the source shares of another."""

from __future__ import annotations

from typing import Any

from s2l_ray.config import SelectionConfig, SelectorName
from s2l_ray.errors import TooFew
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.pipeline.subset import choose_subset
from s2l_ray.selection.kinds import Cover
from s2l_ray.selection.selectors import selector_named
from s2l_ray.selection.shares import in_shares
from s2l_ray.store import Manifest
from s2l_ray.store.views import SelectionView


def check_shares(selector: SelectorName) -> None:
    """Refuse a selector whose order within a source is not known."""
    kind = selector_named(selector)
    if isinstance(kind, Cover):
        raise ValueError(
            f"compare.shares: {selector} chooses greedily for one budget, so it has no order from "
            "which another mix of sources could be taken: leave it out"
        )


def subset_in_shares(view: Run, selector: SelectorName, like: SelectorName, count: int) -> Manifest:
    """Return `selector`'s subset with the sources of `like`'s subset of `count` examples.

    Smaller budgets nest in larger ones, so a selector orders all its candidates. From each source,
    the first in this order are taken, from a budget that has enough of each. TooFew if no budget
    has.
    """
    seed = view.config.seed

    def chosen(name: SelectorName, budget: int) -> Manifest:
        choice = SelectionConfig(selector=name, budget=budget, seed=seed)
        return choose_subset(view, choice).manifest

    wanted = SelectionView(chosen(like, count)).by_source
    size = count
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
        size = min(2 * size, whole.candidates)
    stage_of = view.plan

    def make(run: Run, **where: Any) -> Manifest:
        return in_shares(
            run.store,
            whole.manifest,
            wanted,
            like=like,
            corpus=run.get(stage_of.corpus),
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
