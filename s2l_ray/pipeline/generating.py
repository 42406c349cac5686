"""What fine-tuned targets generate: answers to questions, and texts that have a reference."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import ray

from s2l_ray import evaluation
from s2l_ray.config import ModelConfig, TrajectoriesConfig
from s2l_ray.evaluation import Asking, TextMetrics
from s2l_ray.evaluation.lm_eval import Results, lm_eval
from s2l_ray.execution.connect import when_connected
from s2l_ray.execution.nodes import resources_of
from s2l_ray.execution.remote import get
from s2l_ray.pipeline.halves import in_use
from s2l_ray.pipeline.identity import local_files, prompt_settings
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Job, Stage, Work
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import checkpoints_of, checksums_of_checkpoints

logger = logging.getLogger(__name__)

HARNESS = "report/lm-eval.json"


class Sets(NamedTuple):
    """The sets of evaluation.answers and of evaluation.texts, by name."""

    answers: dict[str, Manifest]
    texts: dict[str, Manifest]

    @property
    def all(self) -> dict[str, Manifest]:
        return self.answers | self.texts


def generated_sets(run: Run) -> Sets:
    """Read the sets without what the corpus has too. ValueError for a bad one."""
    given = run.store, run.get(run.plan.corpus), run.config.evaluation, run.config.corpus
    answers, texts = evaluation.answer_sets(*given), evaluation.text_sets(*given)
    return Sets(in_use(run, answers), in_use(run, texts))


def check_generation(run: Run) -> None:
    """Refuse examples of few_shot that cannot be read, programs that cannot be confined where the
    workers run, and a folder for BERTScore that is not there."""
    settings = run.config.evaluation
    model = settings.bert_score_model
    if settings.texts and model and os.path.isabs(model) and not os.path.isdir(model):
        raise ValueError(
            f"evaluation.bert_score_model: found no folder {model}, expected one with a model in "
            "Hugging Face format on every node"
        )
    if settings.answers and _asking(run).runs_programs:
        workers = scoring_of_targets(run)[0].workers
        check = ray.remote(evaluation.check_sandbox).options(**resources_of(workers))
        when_connected(lambda: get(check.remote()))


def generate(
    run: Run, targets: Mapping[str, Manifest], sets: Sets, tokenizer: str
) -> dict[str, dict[str, Any]]:
    """Return, by target, exact_match: {set: counts}, texts: {set/metric: score} and texts_written:
    {set: how many}, if there are sets; and influences, by measure (analysis.examples)."""
    found: dict[str, dict[str, Any]] = {name: {"influences": {}} for name in targets}
    settings = run.config.evaluation
    if sets.answers:
        made = _made(run, targets, sets.answers, tokenizer, _asking(run))
        for name in targets:
            counts = {each: evaluation.counts(made[name, each]) for each in sets.answers}
            found[name]["exact_match"] = counts
            for each in sets.answers:
                influences = evaluation.influences_of_answers(run.store, made[name, each])
                found[name]["influences"][f"exact_match/{each}"] = influences
    if sets.texts:
        metrics = TextMetrics(settings.bert_score_model, settings.bert_score_layer)
        made = _made(run, targets, sets.texts, tokenizer, metrics)
        for name in targets:
            found[name]["texts"] = {
                f"{each}/{metric}": score
                for each in sets.texts
                for metric, score in evaluation.text_scores(made[name, each]).items()
            }
            found[name]["texts_written"] = {each: made[name, each].rows for each in sets.texts}
            for key in found[name]["texts"]:
                each, _, metric = key.rpartition("/")
                if metric != "bleu":  # no mean over texts
                    influences = evaluation.influences_of_answers(
                        run.store, made[name, each], metric
                    )
                    found[name]["influences"][f"texts/{key}"] = influences
    return found


def run_harness(run: Run, target: Manifest, tasks: str) -> Results:
    """Run tasks of lm-evaluation-harness on a target; write what it finds to the report's folder
    too."""
    model = max(checkpoints_of(target).items())[1]
    found = lm_eval(run.store, model, tasks, scoring_of_targets(run)[0])
    run.store.write_json({"model": model, "tasks": tasks, "results": found}, HARNESS)
    return found


def _asking(run: Run) -> Asking:
    return evaluation.asking_of(run.store, run.config.evaluation, run.config.corpus)


def _made(
    run: Run,
    targets: Mapping[str, Manifest],
    sets: Mapping[str, Manifest],
    tokenizer: str,
    how: Asking | TextMetrics,
) -> dict[tuple[str, str], Manifest]:
    """Let each target generate for each set, with one pool: by target and set."""
    settings, (scoring, setting) = run.config.evaluation, scoring_of_targets(run)
    prompt = run.config.target_prompt or run.config.prompt

    def make(run: Run, jobs: list[Job]) -> list[Manifest]:
        answerings = []
        for job in jobs:
            target, questions = (each.found for each in job.stage.inputs)
            assert target is not None and questions is not None
            step, model = max(checkpoints_of(target).items())
            answerings.append(
                evaluation.Answering(
                    questions,
                    model,
                    made_of=checksums_of_checkpoints(target).get(step),
                    at_most=settings.answers_at_most,
                    **job.where,
                )
            )
        return evaluation.answer(
            run.store,
            answerings,
            scoring,
            tokenizer_folder=tokenizer,
            prompt=prompt,
            max_new_tokens=settings.max_new_tokens,
            setting=setting,
            how=how,
        )

    generation = (*scoring.precision, settings.max_new_tokens, settings.answers_at_most)
    stages = {
        (name, each): Stage(
            f"{run.plan.prefix}evaluations/{name}/{each}",
            make,
            inputs=(Stage.given(target), Stage.given(questions)),
            settings=(tokenizer, prompt_settings(prompt), *generation, *identity_of(how)),
            work=Work("scoring", scoring.workers, scoring.max_workers),
        )
        for name, target in targets.items()
        for each, questions in sets.items()
    }
    made = dict(zip(stages, run.get_all(stages.values()), strict=True))
    for (name, each), found in made.items():
        if told := evaluation.told_room(found, f"{each}, of {name}"):
            logger.warning(told)
    return made


def identity_of(how: Asking | TextMetrics) -> tuple[Any, ...]:
    """Return what identifies how texts are made and measured, beside the target, the set and the
    generation."""
    if isinstance(how, TextMetrics):
        files = [] if how.model is None else local_files(ModelConfig(name=how.model))
        return (evaluation.TEXTS, how, *files)
    if how == Asking():  # the fingerprint is as it was before there were other ways
        return (evaluation.RULE,)
    return (evaluation.RULE, how, *([evaluation.PROGRAMS] if how.runs_programs else []))


def scoring_of_targets(run: Run) -> tuple[TrajectoriesConfig, str]:
    """Return the settings that targets are scored with, and the config field of the workers."""
    scoring, workers = run.config.trajectories, run.config.evaluation.workers
    if workers is None:
        return scoring, "trajectories.workers"
    update = {"workers": workers, "max_workers": None}
    return scoring.model_copy(update=update), "evaluation.workers"
