"""Cross-fitting, declared: a proxy for each half of the corpus, and every example scored by the
proxy that was not trained on it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from s2l_ray.config import BASELINE, RunConfig, SelectionConfig
from s2l_ray.corpus.derived import FOLDS, fold_of
from s2l_ray.pipeline import alarms
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.scoring.trajectories import assemble
from s2l_ray.store import Manifest

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run


def out_of_fold(plan: Plan) -> Stage:
    """Declare the trajectories of all examples by proxies that were not trained on them."""
    from s2l_ray.pipeline.plan import Plan

    assert plan.config.trains_proxy  # preflight refuses it
    config = without_signals(plan.config)
    folds = [Plan(config, plan.corpus, f"fold-{number}/") for number in range(FOLDS)]
    for number, fold in enumerate(folds):
        vars(fold)["tokens"] = Stage(
            f"{fold.prefix}tokens",
            alone(partial(_make_fold, plan, number)),
            inputs=(plan.tokens,),
            settings=("fold", number),
        )
    losses = []
    for fold, other in zip(folds, reversed(folds), strict=True):
        losses.append(scored_by(fold, fold.tokens, other.proxy))

    def make(run: Run, **where: Any) -> Manifest:
        return assemble(run.store, run.get(plan.corpus), *map(run.get, losses), **where)

    return Stage(
        "trajectories_out_of_fold",
        alone(make),
        inputs=tuple(losses),
        reads=(plan.corpus,),
        check=partial(alarms.check_losses, plan, fold=folds[0].prefix),
    )


def scored_by(plan: Plan, tokens: Stage, proxy: Stage) -> Stage:
    """Declare the losses of tokens at the checkpoints of a proxy that is not the plan's own for
    them."""
    from s2l_ray.pipeline.plan import Plan

    scored = Plan(plan.config, plan.corpus, plan.prefix)
    vars(scored).update(tokens=tokens, proxy=proxy)
    return scored.losses


def _make_fold(plan: Plan, number: int, run: Run, **where: Any) -> Manifest:
    return fold_of(run.store, run.get(plan.tokens), number, **where)


def without_signals(config: RunConfig) -> RunConfig:
    """The folds' proxies give losses alone, after their training: while one trains, what it is to
    score is not what it trains on."""
    return config.model_copy(
        update={
            "selection": SelectionConfig(selector=BASELINE),
            "evaluation": config.evaluation.model_copy(update={"baselines": [BASELINE]}),
            "trajectories": config.trajectories.model_copy(update={"while_training": False}),
        }
    )
