"""The laws of a run's selections (analysis/laws.py): nothing has to be trained for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.analysis.inclusion import Properties, chances, measure, properties
from s2l_ray.analysis.laws import Law, Tally, law
from s2l_ray.analysis.laws_told import alike_told, table
from s2l_ray.analysis.stability import share_in
from s2l_ray.config import SelectionConfig
from s2l_ray.pipeline.copies import copies_of
from s2l_ray.store import Manifest
from s2l_ray.store.views import CorpusView, SelectionView

if TYPE_CHECKING:
    from s2l_ray.pipeline.arms import Arm
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)


class Laws(NamedTuple):
    """The laws of some selections, in order."""

    told_apart: Properties
    tally: Tally

    def law(self, selection: int = 0) -> Law:
        return law(self.tally, selection)


def laws_of(run: Run, trajectories: Manifest, of: Sequence[tuple[Run, Manifest]]) -> Laws:
    """Measure the laws of finished selections, each with the run or view that made it.

    trajectories: of the mean losses that examples are told apart by.
    """
    corpus = CorpusView(run.get(run.plan.corpus))
    told_apart = properties(run.store, trajectories, corpus.by_source)
    drawn = []
    for view, subset in of:
        groups = view.get(view.plan.groups(_choice(view, subset)))
        drawn.append(chances(run.store, subset, groups, corpus, copies_of(view)))
    return Laws(told_apart, measure(run.store, trajectories, told_apart, drawn))


def tell(view: Run, arms: Sequence[Arm]) -> None:
    """Log the laws of the compared selectors, and which subsets differ by no more than
    draws do.

    view: see comparison.seeded; its baselines are the compared selectors.
    """
    [first, *_] = view.config.compare.match
    trajectories = view.get(view.plan.trajectories)
    subsets = [arm for arm in arms if arm.method in view.config.evaluation.baselines]
    for budget in dict.fromkeys(arm.budget for arm in subsets):
        mine = [arm for arm in subsets if (arm.budget, arm.match) == (budget, first)]
        names, subsets_of = [arm.method for arm in mine], [arm.examples for arm in mine]

        def differ(one: int, other: int, of: list[Manifest] = subsets_of) -> float:
            return 1 - share_in(view.store, of[one], of[other])

        found = laws_of(view, trajectories, [(view, subset) for subset in subsets_of]).tally
        logger.info(f"what the selectors choose at budget {budget}, over all draws:")
        for line in [*table(names, found), *alike_told(names, found, differ)]:
            logger.info(f"  {line}")


def _choice(view: Run, subset: Manifest) -> SelectionConfig:
    """The settings that a finished selection was made with."""
    made = SelectionView(subset)
    return SelectionConfig(
        selector=made.drawn_by, budget=made.budget, seed=made.seed, like=view.config.selection.like
    )
