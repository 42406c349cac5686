"""A race between selectors, declared: small models trained on the subset of each candidate, with
several seeds, evaluated on one half of the held-out examples, and the winner's subset."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from s2l_ray.analysis.measures import value_of
from s2l_ray.analysis.race import run_race
from s2l_ray.config import CorpusConfig, RunConfig, SelectionConfig, TrainingConfig
from s2l_ray.corpus.sources import fingerprint_of, split_of_path
from s2l_ray.errors import TooFew
from s2l_ray.pipeline import alarms, records
from s2l_ray.pipeline.halves import DECIDES, RACE_PREFIX
from s2l_ray.pipeline.identity import selection_name, settings_of
from s2l_ray.pipeline.stage import Job, Stage, Work, alone
from s2l_ray.pipeline.target_stages import dealt_out, train_on
from s2l_ray.pipeline.tokens import tokens_of
from s2l_ray.selection.winner import take
from s2l_ray.store import Manifest
from s2l_ray.store.views import RaceView

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)

TARGETS, RESULT = f"{RACE_PREFIX}targets/", f"{RACE_PREFIX}result"


def winner_stage(plan: Plan, choice: SelectionConfig) -> Stage:
    """Declare the subset of the candidate that wins."""
    subsets = {each.selector: plan.selection(each) for each in choice.contenders}
    race = _race(plan, choice, subsets)

    def make(run: Run, **where: Any) -> Manifest:
        found = run.get(race)
        return take(run.store, run.get(subsets[RaceView(found).winner]), found.info, **where)

    def check(run: Run, selection: Manifest) -> None:
        alarms.check_selection(plan, run, selection)
        told = f"race: {RaceView(run.get(race)).told}"
        if told not in run.told:
            run.told.add(told)
            logger.info(told)

    return Stage(
        f"selections/{selection_name(choice.selector, choice.seed)}",
        alone(make),
        inputs=(race,),
        settings=("winner",),
        reads=tuple(subsets.values()),
        check=check,
    )


def _race(plan: Plan, choice: SelectionConfig, subsets: dict[str, Stage]) -> Stage:
    """Declare the decision, after a training on each subset with each seed."""
    racing = racing_plan(plan, choice)
    config = racing.config
    assert config.target is not None
    tokens, trainings = list[Stage](), dict[tuple[str, int], Stage]()
    for selector, subset in subsets.items():
        name = selection_name(selector, choice.seed)
        rows = dealt_out(f"{RACE_PREFIX}dealt/{name}", _or_too_few(subset, selector))
        prompt = config.target_prompt or config.prompt
        place, what = f"{RACE_PREFIX}tokens/{name}", f"{name} to race"
        tokens.append(tokens_of(racing, place, rows, config.target.model, prompt, what))
        for seed in choice.race.seeds:
            trainings[selector, seed] = _training(
                config.target, tokens[-1], f"{name}-train{seed}", seed
            )
    return Stage(
        RESULT,
        alone(partial(_decide, racing, trainings)),
        inputs=(*tokens, *trainings.values()),  # in this order: all subsets before any training
        settings=(
            [*subsets],
            config.compare.primary,
            records.evaluation_settings(config) | {"half": DECIDES},
            _sources_of_evaluation(config),
            config.trajectories.precision,
        ),
        reads=(plan.corpus,),
    )


def racing_plan(plan: Plan, choice: SelectionConfig) -> Plan:
    """Return the plan whose target is what the race trains."""
    from s2l_ray.pipeline.plan import Plan

    return Plan(race_config(plan.config, choice), plan.corpus, RACE_PREFIX)


def race_config(config: RunConfig, choice: SelectionConfig) -> RunConfig:
    """Return the settings with what the race trains as the target."""
    update: dict[str, Any] = {"selection": choice}
    if choice.race.model == "proxy":
        update |= {"target": stand_in(config), "target_prompt": None}
        update["evaluation"] = config.evaluation.model_copy(update={"workers": None})
    return config.model_copy(update=update)


def stand_in(config: RunConfig) -> TrainingConfig:
    """Return a target of the proxy's size, trained for as long as the target would be."""
    like = config.target or config.proxy
    update: dict[str, Any] = {
        "num_checkpoints": None,
        "checkpoint_every": None,
        "checkpoints": None,
    }
    update |= {"epochs": like.epochs, "max_steps": like.max_steps}
    return config.proxy.model_copy(update=update)


def prepare_race(run: Run) -> None:
    """Refuse now, not after hours, what the race's models cannot be evaluated on."""
    from s2l_ray.pipeline.evaluate import prepare_evaluation
    from s2l_ray.pipeline.memory import check_memory

    view = _view(run, racing_plan(run.plan, run.config.selection))
    if run.config.selection.race.model == "target":
        assert view.config.target is not None
        check_memory(run, "target", view.config.target)
    prepare_evaluation(view)


def _view(run: Run, racing: Plan) -> Run:
    """Return the run with the race's models as targets. What it makes counts in the time of the
    stage that makes it."""
    return replace(run, config=racing.config, plan=racing, times=[], recorded=False)


def _or_too_few(subset: Stage, selector: str) -> Stage:
    """Return the stage with an error that says what to do about a candidate."""

    def maker(run: Run, jobs: list[Job]) -> list[Manifest]:
        try:
            return subset.maker(run, jobs)
        except TooFew as error:
            raise TooFew(
                f"selection.race.candidates: {selector} cannot fill the budget: {error}. All "
                "stages so far are kept: leave the candidate out, or lower selection.budget"
            ) from error

    return replace(subset, maker=maker)


def _training(training: TrainingConfig, tokens: Stage, name: str, seed: int) -> Stage:
    def make(run: Run, **where: Any) -> Manifest:
        return train_on(run, run.get(tokens), training, seed=seed, label=name, **where)

    return Stage(
        f"{TARGETS}{name}",
        alone(make),
        inputs=(tokens,),
        settings=(*settings_of(training), seed),
        work=Work("training", training.workers),
        apart=True,
    )


def _decide(
    racing: Plan, trainings: dict[tuple[str, int], Stage], run: Run, **where: str
) -> Manifest:
    from s2l_ray.pipeline.evaluate import evaluate

    config, view = racing.config, _view(run, racing)
    names = {arm: stage.name.removeprefix(TARGETS) for arm, stage in trainings.items()}
    measured = evaluate(view, {names[arm]: run.get(stage) for arm, stage in trainings.items()})
    choice = config.selection
    found: list[records.Record] = [
        {"method": selector, "budget": str(choice.budget), "selection_seed": choice.seed}
        | {"training_seed": seed}
        | measured[names[selector, seed]]
        for selector, seed in trainings
    ]
    info = run_race(found, config.compare.primary).as_info()
    for entry in info["candidates"]:
        mine = [each for each in found if each["method"] == entry["candidate"]]
        entry["values"] = _finite([value_of(each, info["measure"]) for each in mine])
    info |= {"seeds": choice.race.seeds, "trained": choice.race.model}
    info["examples"] = sum(found[0]["examples_by_source"].values())
    return run.store.commit(where["folder"], where["fingerprint"], [], info)


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _sources_of_evaluation(config: RunConfig) -> list[str]:
    """Return what identifies the files of a race's evaluation."""
    found, given = list[str](), config.evaluation
    for path in [*given.files.values(), *given.answers.values(), *given.texts.values()]:
        split = given.split or split_of_path(path, "test")
        found.append(fingerprint_of(CorpusConfig(path=path, split=split)))
    return found
