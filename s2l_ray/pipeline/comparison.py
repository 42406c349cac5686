"""Selectors compared: subsets, targets trained on them, and their losses, one arm each.

Two comparisons run on one engine. `baselines` (jobs/pipeline.py) compares the run's selector with
evaluation.baselines over evaluation.seeds, all with the run's proxy. `compare` (jobs/compare.py)
compares selectors x budgets x seeds, and trains a proxy for each seed.

A selection seed stands for all that a selector draws; in `compare` also for the proxy's training
and the start of k-means. A training seed stands for the target's initial weights and the order of
its examples. Each selection seed has training seeds of its own, which tell more about a mean than
as many trainings with the same few. Arms with the same two seeds are a pair across selectors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

from s2l_ray.analysis.measures import check_primary
from s2l_ray.analysis.stability import share_in
from s2l_ray.config import (
    BASELINE,
    RunConfig,
    SelectionConfig,
    SelectorName,
    parse_budget,
)
from s2l_ray.errors import TooFew
from s2l_ray.execution.connect import connect_as_expected
from s2l_ray.execution.progress import about
from s2l_ray.pipeline import laws, records
from s2l_ray.pipeline.alarms import take_over
from s2l_ray.pipeline.arms import UNTUNED, Arm, can_match
from s2l_ray.pipeline.copies import left_out
from s2l_ray.pipeline.evaluate import evaluate, prepare_evaluation
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.memory import check_memory
from s2l_ray.pipeline.mixed import check_shares
from s2l_ray.pipeline.planned import arms_of_seeds
from s2l_ray.pipeline.records import Record
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.side_by_side import side_by_side
from s2l_ray.pipeline.stage import Stage
from s2l_ray.pipeline.subset import check_reachable, choose_subset, prepare
from s2l_ray.pipeline.target_stages import target_stage
from s2l_ray.pipeline.targets import untuned_stage
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store.views import CorpusView, SelectionView, TrainingView

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)


def baselines(run: Run) -> list[Record]:
    """Compare the run's selector with the baselines; return the records (records.py).

    A seed stands for the draw and the training alike, so a pair of arms differs in the subset
    alone. All budgets are equal in examples (random_tokens: in tokens).
    """
    config, target = run.config, run.config.target
    assert target is not None
    check_memory(run, "target", target)
    prepare_evaluation(run)
    main = choose_subset(run, config.selection)
    # As many tokens are not as many examples; otherwise keep the budget as it is written, so that
    # what other commands made is found.
    by_tokens = parse_budget(config.selection.budget)[0] == "tokens"
    budget = SelectionView(main.manifest).examples if by_tokens else config.selection.budget
    like = config.selection.like
    chosen = choices_of(config, budget)
    short: list[Record] = []
    for selector in list(chosen):
        try:
            for choice in chosen[selector].values():
                choose_subset(run, choice)
        except TooFew as error:
            if selector == config.selection.selector:
                raise
            logger.warning(f"evaluation.baselines: {selector} is left out: {error}")
            for seed in chosen.pop(selector):
                short.append(records.too_few(selector, budget, "examples", seed, seed, error))
    arms = []
    for selector, choices in chosen.items():
        for seed, choice in choices.items():
            subset = choose_subset(run, choice).manifest
            shared = 1.0
            if selector != BASELINE:
                base = choose_subset(run, chosen[BASELINE][seed]).manifest
                shared = share_in(run.store, subset, base)
            arms.append(
                Arm(
                    budget=str(budget),
                    match="examples",
                    selection_seed=seed,
                    training_seed=seed,
                    method=selector,
                    examples=subset,
                    count=SelectionView(subset).examples,
                    tokens=SelectionView(subset).tokens,
                    shared=shared,
                    training=target,
                    like=like if selector_named(selector).like else None,
                    own_name=selection_name(selector, seed),
                )
            )
    found = _measure(run, arms) + short
    settings = records.settings_of_baselines(config, main.manifest.fingerprint)
    return records.keep(run.store, records.BASELINES, found, settings)


def choices_of(
    config: RunConfig, budget: int | float | str
) -> dict[SelectorName, dict[int, SelectionConfig]]:
    """Return what `baselines` selects, by selector and seed. budget: of each but the run's own."""
    own, chosen = config.selection, dict[SelectorName, dict[int, SelectionConfig]]()
    for selector in dict.fromkeys([own.selector, *config.evaluation.baselines]):
        chosen[selector] = {
            seed: SelectionConfig(
                selector=selector, budget=budget, seed=seed, like=own.like, race=own.race
            )
            for seed in config.evaluation.seeds
        }
        if selector == own.selector and own.seed in chosen[selector]:
            # The run's own subset, and the target of jobs/finetune.py.
            chosen[selector][own.seed] = own
    return chosen


def compare(
    run: Run,
    done: Callable[[list[Record]], None],
    dataset: ray.data.Dataset | None = None,
) -> list[Record]:
    """Compare compare.selectors; return the records (records.py) by pairs of seeds. `done` gets all
    records so far after each pair."""
    config = run.config
    # Refuse now, not after hours, what cannot be had.
    for selector in config.compare.shares:
        check_shares(selector)
    prepare(run, dataset)
    if config.target is not None:
        check_memory(run, "target", config.target)
    prepare_evaluation(run)
    if config.compare.primary is not None:
        corpus = CorpusView(run.get(run.plan.corpus))
        sources = None if config.evaluation.files else corpus.heldout_by_source
        check_primary(config.compare.primary, sources, config.evaluation)
    of_shares = {name for pair in config.compare.mixed for name in pair}
    for selector in [*config.compare.selectors_with(0), *of_shares]:
        for budget in config.compare.budgets:
            choice = config.selection.model_copy(update={"selector": selector, "budget": budget})
            wanted = config.model_copy(update={"selection": choice})
            check_reachable(wanted, run.store, run.get(run.plan.tokens), left_out(run))
    found: list[Record] = []
    settings = records.settings_of_comparison(config)
    for place, seed in enumerate(config.compare.seeds):
        selectors = config.compare.selectors_with(place)
        view = run.view(seeded(config, seed, selectors))
        with about(f"seed {seed}"):
            view.get(view.plan.trajectories)
            for number in range(config.compare.trainings):
                arms, short = arms_of_seeds(view, selectors, training_seed(seed, number))
                if not place and not number:
                    laws.tell(view, arms)
                made = _measure(run, arms) + short
                found += records.keep(run.store, records.COMPARISON, made, settings)
                done(found)
        take_over(run, view)
    return found


def training_seed(seed: int, number: int) -> int:
    """Return the seed of training `number` on the subsets of a selection seed; the first is that
    seed itself."""
    return (seed + number * 1_000_003) % (2**32 - 1)


def num_targets(config: RunConfig) -> int:
    """Return how many targets `compare` trains at most; the baseline and its other amounts are
    trained once for all that is matched with them."""
    compare = config.compare
    found = 0
    for place in range(len(compare.seeds)):
        found += 1 + len(compare.full) * len(compare.match) + len(compare.worth)
        found += len(compare.mixed) * ("examples" in compare.match)
        others = [name for name in compare.selectors_with(place) if name != BASELINE]
        found += sum(can_match(name, match) for name in others for match in compare.match)
    return found * compare.trainings * len(compare.budgets)


def num_untuned(config: RunConfig) -> int:
    """Return how many targets `compare` evaluates untrained. A pretrained one is the same for all
    seeds."""
    assert config.target is not None
    if not config.compare.untuned:
        return 0
    return 1 if config.target.model.name else len(config.compare.seeds) * config.compare.trainings


def seeded(config: RunConfig, seed: int, selectors: list[SelectorName]) -> RunConfig:
    """Return the settings with another seed for proxy, clusters and draws. The compared selectors
    take the place of the baselines, so that the signals they need are scored together."""
    compared = list(dict.fromkeys([*selectors, *chain.from_iterable(config.compare.mixed)]))
    return config.model_copy(
        update={
            "seed": seed,
            "clusters": config.clusters.model_copy(update={"random_state": seed}),
            "selection": config.selection.model_copy(update={"seed": seed}),
            "evaluation": config.evaluation.model_copy(update={"baselines": compared}),
        }
    )


def _measure(run: Run, arms: list[Arm]) -> list[Record]:
    """Train the targets that are missing, several at once, and evaluate all."""

    def stage_of(arm: Arm) -> Stage:
        if arm.method == UNTUNED:
            return untuned_stage(run.plan, arm.name, seed=arm.training_seed)
        return target_stage(
            run.plan, arm.name, arm.examples, seed=arm.training_seed, training=arm.training
        )

    stages = {arm.name: stage_of(arm) for arm in arms}
    if missing := [name for name, stage in stages.items() if run.find(stage) is None]:
        connect_as_expected()  # in the main thread, where Ray can set its signal handlers
        at_once = run.config.evaluation.targets_at_once
        side_by_side(lambda name: run.get(stages[name]), missing, at_once)
    targets = {name: run.get(stage) for name, stage in stages.items()}
    measured = evaluate(run, targets)

    def record(arm: Arm) -> Record:
        target = targets[arm.name]
        like = {} if arm.like is None else {"like": arm.like}
        return (
            {
                "method": arm.method,
                "budget": arm.budget,
                "match": arm.match,
                "selection_seed": arm.selection_seed,
                "training_seed": arm.training_seed,
                "examples": arm.count,
                "tokens": arm.tokens,
                "shared": arm.shared,
                "steps": TrainingView(target).step,
                "trained_tokens": TrainingView(target).tokens,
                "target": target.folder,
            }
            | measured[arm.name]
            | like
        )

    return [record(arm) for arm in arms]
