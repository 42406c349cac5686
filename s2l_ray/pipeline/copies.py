"""Near-duplicates, declared: signatures, groups, what a cap leaves out, and what is said of it."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from s2l_ray.analysis.copies import groups_told, spent, spent_told
from s2l_ray.corpus.copies import Copies, without_copies
from s2l_ray.corpus.minhash import SCHEME
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.store import Manifest
from s2l_ray.store.views import CorpusView, NearDuplicatesView, SelectionView, TokensView

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)


def near_duplicates(plan: Plan) -> Stage | None:
    """Declare the corpus's groups of near-duplicates; None if they are not searched for."""
    settings = plan.config.selection.near_duplicates
    if settings is None:
        return None

    def sign(run: Run, **where: Any) -> Manifest:
        from s2l_ray.corpus.near_duplicates import sign

        corpus, tokens = run.get(plan.corpus), run.get(plan.tokens)
        return sign(run.store, corpus, tokens, settings.shingle_words, **where)

    signed = Stage(
        "near_duplicates/signatures",
        alone(sign),
        inputs=(plan.tokens,),
        settings=(SCHEME, settings.shingle_words),
        reads=(plan.corpus,),
    )

    def make(run: Run, **where: Any) -> Manifest:
        from s2l_ray.corpus.near_duplicates import group

        corpus = CorpusView(run.get(plan.corpus))
        return group(run.store, run.get(signed), corpus, settings.similarity, **where)

    return Stage(
        "near_duplicates/groups",
        alone(make),
        inputs=(signed,),
        settings=("groups", settings.similarity),
        reads=(plan.corpus,),
        check=partial(_tell_groups, plan),
    )


class Cap:
    """How many examples of a group of near-duplicates may be chosen."""

    def __init__(self, near: Stage, most: int) -> None:
        self.near, self.most = near, most
        self.settings = ("max_per_group", most)

    @classmethod
    def of(cls, plan: Plan) -> Cap | None:
        """The cap of a run's selections; None if there is none."""
        settings, near = plan.config.selection.near_duplicates, plan.near_duplicates
        if settings is None or settings.max_per_group is None or near is None:
            return None
        return cls(near, settings.max_per_group)

    def copies(self, run: Run) -> Copies:
        return Copies.of(run.get(self.near), self.most)

    def kept(self, stage: Stage) -> Stage:
        """Declare a stage's examples without those that the cap leaves out."""

        def make(run: Run, **where: Any) -> Manifest:
            return without_copies(run.store, run.get(stage), self.copies(run), **where)

        inputs = (stage, self.near)
        return Stage("near_duplicates/kept", alone(make), inputs=inputs, settings=self.settings)


def copies_of(run: Run) -> Copies | None:
    """Return which examples the cap of a run leaves out; None if there is none."""
    cap = Cap.of(run.plan)
    return None if cap is None else cap.copies(run)


def left_out(run: Run) -> int:
    """Return how many examples the cap of a run leaves out. Finds the groups."""
    cap = Cap.of(run.plan)
    return 0 if cap is None else NearDuplicatesView(run.get(cap.near)).left_out(cap.most)


def copies_told(run: Run, *subsets: Manifest) -> list[str]:
    """Say what groups the corpus has, and what each subset spends on copies; nothing if the run
    does not search for them."""
    if run.plan.near_duplicates is None:
        return []
    near = run.get(run.plan.near_duplicates)
    return [
        _groups_told(run.plan, run, near),
        *(
            spent_told(SelectionView(each).selector, spent(run.store, near, each))
            for each in subsets
        ),
    ]


def _groups_told(plan: Plan, run: Run, near: Manifest) -> str:
    settings = plan.config.selection.near_duplicates
    assert settings is not None
    examples = TokensView(run.get(plan.tokens)).trainable
    return groups_told(NearDuplicatesView(near), examples, settings.max_per_group)


def _tell_groups(plan: Plan, run: Run, near: Manifest) -> None:
    _tell(run, _groups_told(plan, run, near))


def tell_spent(run: Run, subset: Manifest) -> None:
    """Log once what a subset spends on copies."""
    for sentence in copies_told(run, subset)[1:]:
        _tell(run, sentence)


def _tell(run: Run, sentence: str) -> None:
    if sentence not in run.told:
        run.told.add(sentence)
        logger.info(f"near-duplicates: {sentence}")
