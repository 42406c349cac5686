"""Selection toward a purpose, declared: the examples of selection.toward read, tokenized and scored
like the corpus, their places in the clusters, and a proxy that is trained on them alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from s2l_ray.analysis.purpose import purpose_told
from s2l_ray.clustering.clusters import assign_to_centers
from s2l_ray.config import RunConfig
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.purpose import purpose_config
from s2l_ray.corpus.sources import fingerprint_of
from s2l_ray.errors import Damaged
from s2l_ray.pipeline import proxy
from s2l_ray.pipeline.folds import scored_by, without_signals
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.pipeline.tokens import tokens_of
from s2l_ray.scoring.trajectories import assemble
from s2l_ray.store import Manifest
from s2l_ray.store.views import ClustersView, LeaksView, SelectionView, TokensView

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)

CHECKPOINTS = 2  # of the path: halfway, and at its end


def purpose_tokens(plan: Plan) -> Stage:
    """Declare the purpose's examples that the corpus does not have, tokenized for the proxy."""
    stage = tokens_of(
        plan,
        "purpose/tokens",
        plan.purpose,
        plan.config.proxy.model,
        plan.config.prompt,
        "the purpose for the proxy",
    )

    def check(run: Run, tokens: Manifest) -> None:
        assert stage.check is not None
        stage.check(run, tokens)
        if not TokensView(tokens).trainable:
            raise ValueError(
                f"selection.toward: none of {tokens.rows:,} examples has a response token left "
                f"after the cut at {plan.config.prompt.max_length} tokens (prompt.max_length)"
            )

    return replace(stage, check=check)


def purpose_examples(plan: Plan) -> Stage:
    """Declare the purpose's examples, without those that the corpus or its held-out share has."""
    settings = purpose_config(plan.config)

    def read(run: Run, **where: Any) -> Manifest:
        try:
            return ingest(run.store, settings, label="purpose", **where)
        except Damaged:  # of the run directory: it is mended
            raise
        except ValueError as error:
            raise ValueError(f"selection.toward: {error}") from error

    try:
        sources = fingerprint_of(settings)
    except ValueError as error:
        raise ValueError(f"selection.toward: {error}") from error
    given = Stage("purpose/corpus", alone(read), settings=(sources,))

    def make(run: Run, **where: Any) -> Manifest:
        from s2l_ray.evaluation.leaks import apart

        corpus = run.get(plan.corpus)
        others = {"the corpus": corpus}
        if (heldout := run.store.manifest(f"{corpus.folder}/heldout")) is not None:
            others["the held-out share of the corpus"] = heldout
        return apart(run.store, run.get(given), others, "selection.toward", **where)

    return Stage(
        "purpose/examples",
        alone(make),
        inputs=(given, plan.corpus),
        settings=("apart",),
        check=_tell_left_out,
    )


def purpose_losses(plan: Plan) -> Stage:
    """Declare the losses of the purpose's examples at the checkpoints of the run's own proxy."""
    from s2l_ray.pipeline.plan import Plan

    scored = Plan(without_signals(plan.config), plan.corpus, "purpose/")
    vars(scored).update(tokens=purpose_tokens(plan), proxy=plan.proxy)
    return Stage(
        "purpose/losses",
        alone(partial(proxy.score_proxy, scored)),
        inputs=(plan.proxy, scored.tokens),
        settings=plan.config.trajectories.precision,
        work=plan.scoring,
        check=plan.drop_checkpoints if plan.config.trains_proxy else None,
    )


def purpose_shares(plan: Plan, clusters: Stage) -> Stage:
    """Declare the cluster whose center is nearest to each of the purpose's trajectories."""
    examples, losses, steps = plan.purpose, purpose_losses(plan), plan.steps

    def join(run: Run, **where: Any) -> Manifest:
        found = run.get(losses)
        found = found if steps is None else replace(found, info={"steps": steps})
        return assemble(run.store, run.get(examples), found, **where)

    trajectories = Stage(
        "purpose/trajectories",
        alone(join),
        inputs=(losses,),
        settings=() if steps is None else ("steps", steps),
        reads=(examples,),
    )

    def make(run: Run, **where: Any) -> Manifest:
        return assign_to_centers(run.store, run.get(trajectories), run.get(clusters), **where)

    return Stage("purpose/shares", alone(make), inputs=(trajectories, clusters))


def along_path(plan: Plan) -> Stage:
    """Declare the corpus's trajectories along a training on the purpose's examples alone."""
    from s2l_ray.pipeline.plan import Plan

    assert plan.config.trains_proxy  # preflight refuses it
    path = Plan(path_config(plan.config), plan.corpus, "toward/")
    vars(path)["tokens"] = purpose_tokens(plan)
    losses = scored_by(path, plan.tokens, path.proxy)

    def make(run: Run, **where: Any) -> Manifest:
        return assemble(run.store, run.get(plan.corpus), run.get(losses), **where)

    return Stage("toward/trajectories", alone(make), inputs=(losses,), reads=(plan.corpus,))


def path_config(config: RunConfig) -> RunConfig:
    """Return the settings of the training on the purpose's examples and of scoring along it."""
    training = config.proxy.model_copy(
        update={
            "max_steps": config.selection.toward_steps,
            "num_checkpoints": CHECKPOINTS,
            "checkpoint_every": None,
        }
    )
    return without_signals(config).model_copy(update={"proxy": training})


def check_evaluation(run: Run, heldout: Mapping[str, Manifest]) -> None:
    """ValueError if examples of the purpose are also in evaluation.files: what is chosen toward
    them would be measured by them."""
    if run.config.selection.toward is None:
        return
    from s2l_ray.evaluation.leaks import shared_with

    purpose = run.get(run.plan.purpose)
    for name, examples in heldout.items():
        shared, first = (0, "") if name == "heldout" else shared_with(run.store, purpose, examples)
        if shared:
            raise ValueError(
                f"selection.toward: {shared:,} of {purpose.rows:,} examples, such as {first}, are "
                f"also in evaluation.files: {name}; leave them out of one of the two"
            )


def tell_shares(run: Run, clusters: Manifest, selection: Manifest) -> None:
    """Say once where the purpose's examples lie among the clusters, and what they change."""
    for sentence in purpose_told(SelectionView(selection), ClustersView(clusters).sizes):
        if sentence not in run.told:
            run.told.add(sentence)
            logger.info("selection: %s", sentence)


def _tell_left_out(run: Run, examples: Manifest) -> None:
    """Say once which examples of the purpose are left out."""
    note = LeaksView(examples).note
    if note is not None and note not in run.told:
        run.told.add(note)
        logger.warning(note)
