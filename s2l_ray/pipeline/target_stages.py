"""Targets, declared: a model fine-tuned on a subset, or on the corpus."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from s2l_ray.config import SelectionConfig, TrainingConfig
from s2l_ray.pipeline.identity import settings_of
from s2l_ray.pipeline.stage import Stage, Work, alone
from s2l_ray.pipeline.tokens import tokens_of
from s2l_ray.selection.subset import deal
from s2l_ray.store import Manifest
from s2l_ray.store.views import SelectionView, TokensView

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)


def target_stage(
    plan: Plan, name: str, examples: Manifest, *, seed: int, training: TrainingConfig | None = None
) -> Stage:
    """Declare the target fine-tuned on examples that exist: a subset, or the corpus."""
    rows = Stage.given(examples)
    in_rank_order = SelectionView(examples).has("selector") and len(examples.parts) > 1
    training = training or plan.config.target
    return _target(plan, name, rows, training, seed=seed, dealt=in_rank_order)


def targets_to_be(plan: Plan, name: str, choice: SelectionConfig) -> tuple[Stage, Stage]:
    """Declare the target of a subset that may not exist yet: one if it will have a single part,
    one if it will have several."""
    rows, target = plan.selection(choice), plan.config.target
    one, several = (
        _target(plan, name, rows, target, seed=choice.seed, dealt=dealt) for dealt in (False, True)
    )
    return one, several


def _target(
    plan: Plan, name: str, rows: Stage, training: TrainingConfig | None, *, seed: int, dealt: bool
) -> Stage:
    """dealt: rows in rank order over several parts are dealt out by id first."""
    assert training is not None
    rows = dealt_out(f"targets/{name}/dealt", rows) if dealt else rows
    prompt = plan.config.target_prompt or plan.config.prompt
    what = f"for target {name}"
    tokens = tokens_of(plan, f"targets/{name}/tokens", rows, training.model, prompt, what)

    def make(run: Run, **where: Any) -> Manifest:
        found = run.get(tokens)
        where |= {"seed": seed, "label": f"target {name}"}
        if training.train is None:
            return train_on(run, found, training, **where)
        from s2l_ray.selection.dataset import training_dataset
        from s2l_ray.training.own import train_own

        where["tokenizer_folder"] = TokensView(found).tokenizer
        if TokensView(found).weighted:
            logger.warning(
                f"target {name}: its examples have weights, in the column `weight`; target.train "
                "must multiply their losses with them"
            )
        dataset = training_dataset(run.store, run.get(rows), found)
        return train_own(run.store, dataset, found, training, **where)

    return Stage(
        f"targets/{name}",
        alone(make),
        inputs=(tokens,),
        settings=(*settings_of(training), seed),
        work=Work("training", training.workers),
    )


def dealt_out(name: str, subset: Stage) -> Stage:
    """Declare the rows of a subset spread again by id."""
    return Stage(
        name,
        alone(lambda run, **where: deal(run.store, run.get(subset), **where)),
        inputs=(subset,),
        settings=("dealt",),
    )


def train_on(run: Run, tokens: Manifest, training: TrainingConfig, **where: Any) -> Manifest:
    """Train with the built-in loop. where: seed, label, folder and fingerprint."""
    from s2l_ray.training.train import train

    where["tokenizer_folder"] = TokensView(tokens).tokenizer
    return train(run.store, tokens, training, keep=training.keep_checkpoints, **where)
