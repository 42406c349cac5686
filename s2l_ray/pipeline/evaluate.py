"""Fine-tuned targets evaluated: held-out loss, the loss of answers, and what they generate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from s2l_ray import evaluation
from s2l_ray.corpus.tokenization import tokenize
from s2l_ray.execution.connect import when_connected
from s2l_ray.execution.nodes import check_room
from s2l_ray.pipeline.generating import (
    check_generation,
    generate,
    generated_sets,
    scoring_of_targets,
)
from s2l_ray.pipeline.halves import in_use
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Job, Stage, Work, alone
from s2l_ray.pipeline.targets import check_target
from s2l_ray.pipeline.tokens import tokens_of
from s2l_ray.pipeline.toward import check_evaluation
from s2l_ray.scoring.losses import Scoring, score
from s2l_ray.store import Manifest
from s2l_ray.store.views import TokensView
from s2l_ray.training.checkpoints import checkpoints_of, checksums_of_checkpoints

logger = logging.getLogger(__name__)


def prepare_evaluation(run: Run) -> None:
    """Refuse now, not after hours, held-out examples that the target cannot be evaluated on, and
    files of questions that are not. Tell what is left out."""
    assert run.config.target is not None
    when_connected(partial(check_target, run.config.target))
    settings, heldout = run.config.evaluation, heldout_of(run)
    check_evaluation(run, heldout)
    if settings.workers is not None:
        when_connected(partial(check_room, "evaluation.workers", settings.workers))
    if settings.answer_marker is not None:
        evaluation.check_marker(run.store, heldout, settings.answer_marker)
    for sentence in evaluation.notes(heldout | generated_sets(run).all):
        logger.info(sentence)
    check_generation(run)
    _tokens_of_heldout(run, heldout)


def evaluate(run: Run, targets: dict[str, Manifest]) -> dict[str, dict[str, Any]]:
    """Evaluate fine-tuned targets, by their names.

    Each result has the held-out response loss (evaluation.summarise); with evaluation.files, also
    by_file; with evaluation.answer_marker, the loss after the marker
    (evaluation.summarise_answers); with evaluation.answers, exact_match: {set: counts}; with
    evaluation.texts, texts: {set/metric: score} and texts_written: {set: how many}; influences,
    from which the error of a difference over the examples follows (analysis.examples); and
    left_out, sentences about what is not evaluated on because the corpus has it too.
    """
    settings, heldout = run.config.evaluation, heldout_of(run)
    tokens = _tokens_of_heldout(run, heldout)
    losses = _losses(run, targets, tokens)
    sets = generated_sets(run)
    generated = generate(run, targets, sets, TokensView(next(iter(tokens.values()))).tokenizer)

    def scores(name: str, end: str = "") -> list[tuple[Manifest, Manifest]]:
        return [(examples, losses[name, f"{origin}{end}"]) for origin, examples in heldout.items()]

    read = {name: evaluation.read_losses(run.store, scores(name)) for name in targets}

    def result(name: str) -> dict[str, Any]:
        found = evaluation.summarise(read[name])
        origins, made = list(heldout), generated[name]
        if by_file := evaluation.by_file(read[name], origins):
            found["by_file"] = by_file
        influences = evaluation.influences(read[name], origins) | made.pop("influences")
        found["left_out"] = evaluation.notes(heldout | sets.all)
        if settings.answer_marker is not None:
            after = scores(name, "/answer")
            of_answers = evaluation.summarise_answers(run.store, after, settings.answer_marker)
            influences |= of_answers.pop("influences")
            found |= of_answers
        return found | made | {"influences": influences}

    return {name: result(name) for name in targets}


def heldout_of(run: Run) -> dict[str, Manifest]:
    """Return the sets of held-out examples that the run's targets are evaluated on."""
    given = run.store, run.get(run.plan.corpus), run.config.evaluation, run.config.corpus
    return in_use(run, evaluation.heldout_examples(*given))


def heldout_stages(plan: Plan, heldout: Mapping[str, Manifest]) -> dict[str, Stage]:
    """Declare the tokens of each set of held-out examples as the target sees them, and under
    NAME/answer the same with label tokens only after evaluation.answer_marker."""
    config, marker = plan.config, plan.config.evaluation.answer_marker
    assert config.target is not None
    prompt = config.target_prompt or config.prompt
    found: dict[str, Stage] = {}
    for origin, examples in heldout.items():
        found[origin] = tokens_of(
            plan,
            f"{plan.prefix}evaluations/tokens/{origin}",
            Stage.given(examples),
            config.target.model,
            prompt,
            f"{origin} for the targets",
        )
    if marker is None:
        return found

    def after_marker(
        run: Run, tokens: Stage, examples: Manifest, origin: str, **where: Any
    ) -> Manifest:
        return tokenize(
            run.store,
            examples,
            tokenizer_folder=TokensView(run.get(tokens)).tokenizer,
            prompt=prompt,
            marker=marker,
            label=f"tokenize answers of {origin}",
            **where,
        )

    for origin, examples in heldout.items():
        found[f"{origin}/answer"] = Stage(
            f"{plan.prefix}evaluations/tokens/{origin}/answer",
            alone(partial(after_marker, tokens=found[origin], examples=examples, origin=origin)),
            inputs=(found[origin],),
            settings=(marker,),
        )
    return found


def _tokens_of_heldout(run: Run, heldout: dict[str, Manifest]) -> dict[str, Manifest]:
    """Make heldout_stages. ValueError if no example has a label token, or none after the marker."""
    stages = heldout_stages(run.plan, heldout)
    found: dict[str, Manifest] = {}
    for after in (False, True):
        mine = {name: each for name, each in stages.items() if name.endswith("/answer") == after}
        if not mine:
            continue
        made = dict(zip(mine, run.get_all(mine.values()), strict=True))
        if not any(TokensView(each).label_tokens for each in made.values()):
            marker = run.config.evaluation.answer_marker if after else None
            examples = sum(each.rows for each in heldout.values())
            raise evaluation.nothing_left(examples, marker)
        found |= made
    return found


def _losses(
    run: Run, targets: Mapping[str, Manifest], tokens: Mapping[str, Manifest]
) -> dict[tuple[str, str], Manifest]:
    """Score each target on each set of tokens, with one pool of actors: by target and set."""
    config, setting = scoring_of_targets(run)

    def make(run: Run, jobs: list[Job]) -> list[Manifest]:
        scorings = []
        for job in jobs:
            target, examples = (each.found for each in job.stage.inputs)
            assert target is not None and examples is not None
            last = dict([max(checkpoints_of(target).items())])
            checksums = checksums_of_checkpoints(target)
            scorings.append(Scoring(examples, last, **job.where, checksums=checksums))
        return score(run.store, scorings, config, label="evaluate", setting=setting)

    stages = {
        (name, origin): Stage(
            f"{run.plan.prefix}evaluations/{name}/{origin}",
            make,
            inputs=(Stage.given(target), Stage.given(examples)),
            settings=config.precision,
            work=Work("scoring", config.workers, config.max_workers),
        )
        for name, target in targets.items()
        for origin, examples in tokens.items()
    }
    return dict(zip(stages, run.get_all(stages.values()), strict=True))
