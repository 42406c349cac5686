"""Selectors compared: selectors x budgets x seeds -> subsets -> targets -> losses, an arm each.

A selection seed stands for all that a selector draws: with another one the proxy is trained anew,
and clusters and sampling begin elsewhere. A training seed stands for the target's initial weights
and the order of its examples; each selection seed has training seeds of its own, which say more
about a mean than as many trainings with the same few. Arms with the same two seeds are a pair
across selectors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.data

from s2l_ray.analysis.stability import share_in
from s2l_ray.config import (
    BASELINE,
    RunConfig,
    SelectionConfig,
    SelectorName,
    TrainingConfig,
    fingerprint,
)
from s2l_ray.errors import TooFew
from s2l_ray.pipeline.marks import settings_of
from s2l_ray.pipeline.proxy import make_trajectories
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import check_reachable, choose_subset, prepare
from s2l_ray.pipeline.targets import evaluate, finetune, prepare_evaluation, side_by_side
from s2l_ray.selection.selectors import SELECTORS
from s2l_ray.selection.subset import trainable_tokens
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import num_steps

logger = logging.getLogger(__name__)

FULL_COMPUTE, FULL_EPOCHS = "full, equal compute", "full, equal epochs"


RECORD = ("report", "comparison.json")


FORMAT = 2  # of a record: those of another are not read


@dataclass(frozen=True)
class Arm:
    """A target to train: on what, for how long, and with which seeds."""

    budget: str  # as asked for
    match: str  # what is equal to the baseline's: examples, tokens or compute
    selection_seed: int
    training_seed: int
    method: str  # a selector's name, FULL_COMPUTE or FULL_EPOCHS
    examples: Manifest
    count: int  # of examples that have a label token
    tokens: int  # of these, by the proxy's tokenizer
    shared: float  # the share of them that the baseline's subset has too
    target: TrainingConfig

    @property
    def steps(self) -> int:
        return num_steps(self.target, self.count)

    @property
    def pair(self) -> tuple[str, str, int, int]:
        """Equal for the arms that are compared with one of the baseline."""
        return self.budget, self.match, self.selection_seed, self.training_seed

    @property
    def name(self) -> str:
        """Arms of one name are one training."""
        who = self.method.replace(", equal ", "-")
        return (
            f"{who}-{self.count}-seed{self.selection_seed}-steps{self.steps}"
            f"-train{self.training_seed}"
        )


def compare(
    run: Run,
    done: Callable[[list[dict[str, Any]]], None],
    dataset: ray.data.Dataset | None = None,
) -> list[dict[str, Any]]:
    """Every arm's record, by pairs of seeds; `done` gets all so far after each pair.

    A record: method, budget, match, selection_seed, training_seed, examples, tokens, shared,
    steps, trained_tokens, like (of selectors that take something of another selection, its
    selector), and what evaluate gives, its errors_over_examples those of the difference to the
    baseline; or, of a selector that has too few examples to choose from, `too_few` (why) in place
    of all after the seeds; settings (their mark) in each. Records are kept in
    report/comparison.json.
    """
    config = run.config
    prepare(run, dataset)
    # Refuse now, not after hours, what cannot be had.
    prepare_evaluation(run)
    for selector in config.compare.selectors_with(0):
        for budget in config.compare.budgets:
            chosen = config.selection.model_copy(update={"selector": selector, "budget": budget})
            wanted = config.model_copy(update={"selection": chosen})
            check_reachable(wanted, run.store, run.done["tokens"])
    records: list[dict[str, Any]] = []
    mark = settings_mark(config)
    for place, seed in enumerate(config.compare.seeds):
        selectors = config.compare.selectors_with(place)
        view = run.view(seeded(config, seed, selectors))
        make_trajectories(view)
        for number in range(config.compare.trainings):
            arms, short = _arms(view, selectors, training_seed(seed, number))
            found = _measure(run, arms) + short
            records += [record | {"settings": mark} for record in found]
            run.store.write_json(records, *RECORD)
            done(records)
    return records


def training_seed(seed: int, number: int) -> int:
    """Of the training `number` on the subsets of a selection seed; the first has the same."""
    return (seed + number * 1_000_003) % (2**32 - 1)


def can_match(selector: SelectorName, match: str) -> bool:
    """Whether a selector's subset says something there. One that is random but for another
    selection's tokens stands beside that one at equal examples; where tokens are equal it is
    random."""
    return match == "examples" or SELECTORS[selector].like != "tokens"


def known(run: Run) -> list[dict[str, Any]]:
    """The records of an earlier comparison in this run directory with the same settings."""
    records = run.store.read_json(*RECORD) if run.store.exists(*RECORD) else []
    mark = settings_mark(run.config)
    return [record for record in records if record.get("settings") == mark]


def settings_mark(config: RunConfig) -> str:
    """Of what a record depends on beside what it tells of its arm."""
    assert config.target is not None
    evaluation = config.evaluation.model_dump(exclude={"baselines", "seeds", "targets_at_once"})
    clusters = config.clusters.model_dump(exclude={"num_actors", "stability"})
    trainings = [*settings_of(config.proxy), *settings_of(config.target)]
    scoring = [config.trajectories.dtype, None]  # None: a setting of earlier versions, never set
    rest = [config.corpus, config.prompt, config.target_prompt, config.selection.like]
    # The held-out share is drawn by the run's seed, and a seed's difference is a mean of trainings.
    numbers = [config.seed, config.compare.trainings]
    return fingerprint(FORMAT, *numbers, *rest, *trainings, *scoring, clusters, evaluation)


def num_targets(config: RunConfig) -> int:
    """How many targets a comparison trains, at most: the baseline once for all that is matched."""
    compare = config.compare
    found = 0
    for place in range(len(compare.seeds)):
        found += 1 + len(compare.full) * len(compare.match)
        others = [name for name in compare.selectors_with(place) if name != BASELINE]
        found += sum(can_match(name, match) for name in others for match in compare.match)
    return found * compare.trainings * len(compare.budgets)


def seeded(config: RunConfig, seed: int, selectors: list[SelectorName]) -> RunConfig:
    """With another seed for the proxy, the clusters and the draws; the compared selectors take the
    place of the baselines, so that what they ask for is scored together."""
    baselines = {"baselines": selectors}
    return config.model_copy(
        update={
            "seed": seed,
            "clusters": config.clusters.model_copy(update={"random_state": seed}),
            "selection": config.selection.model_copy(update={"seed": seed}),
            "evaluation": config.evaluation.model_copy(update=baselines),
        }
    )


def _arms(
    view: Run, selectors: list[SelectorName], training_seed: int
) -> tuple[list[Arm], list[dict[str, Any]]]:
    """The arms of one pair of seeds, and the records of those without a subset. view: of the run,
    with the selection seed's trajectories."""
    arms: list[Arm] = []
    short: list[dict[str, Any]] = []
    config, target, seed = view.config, view.config.target, view.config.seed
    assert target is not None

    def subset(selector: SelectorName, budget: Any) -> tuple[Manifest, int, int]:
        like = config.selection.like
        choice = SelectionConfig(selector=selector, budget=budget, seed=seed, like=like)
        manifest = choose_subset(view, choice).manifest
        return manifest, manifest.info["examples"], manifest.info["tokens"]

    tokens = view.done["tokens"]
    trainable = sum(part.stats["trainable"] for part in tokens.parts)
    full = view.done["corpus"], trainable, trainable_tokens(tokens)
    for budget in config.compare.budgets:
        base = subset(BASELINE, budget)
        # By an example of each step: the batch size is the same for all.
        seen = num_steps(target, base[1]) * base[2] / base[1]

        def equal_compute(chosen: tuple[Manifest, int, int], seen: float = seen) -> TrainingConfig:
            """Steps until as many tokens are seen as in the baseline's training."""
            steps = max(1, round(seen * chosen[1] / chosen[2]))
            return target.model_copy(update={"max_steps": steps})

        for match in config.compare.match:
            arm = partial(Arm, str(budget), match, seed, training_seed)
            for selector in selectors:
                if not can_match(selector, match):
                    continue
                chosen = base
                if selector != BASELINE:
                    wanted = f"{base[2]} tokens" if match == "tokens" else base[1]
                    try:
                        chosen = subset(selector, wanted)
                    except TooFew as error:
                        logger.info(f"compare: {selector} is left out: {error}")
                        short.append(
                            {"method": selector, "budget": str(budget), "match": match,
                             "selection_seed": seed, "training_seed": training_seed,
                             "too_few": str(error)}
                        )  # fmt: skip
                        continue
                same = selector == BASELINE or match != "compute"
                shared = 1.0
                if selector != BASELINE:
                    shared = share_in(view.store, chosen[0], base[0])
                way = target if same else equal_compute(chosen)
                arms.append(arm(selector, *chosen, shared, way))
            if "compute" in config.compare.full:
                arms.append(arm(FULL_COMPUTE, *full, base[1] / full[1], equal_compute(full)))
            if "epochs" in config.compare.full:
                arms.append(arm(FULL_EPOCHS, *full, base[1] / full[1], target))
    return arms, short


def _measure(run: Run, arms: list[Arm]) -> list[dict[str, Any]]:
    """Train what has not been trained, several at once, and evaluate."""
    unique = {arm.name: arm for arm in arms}

    def tune(name: str) -> Manifest:
        arm = unique[name]
        return finetune(run, arm.examples, name, seed=arm.training_seed, target=arm.target)

    targets = side_by_side(tune, unique, run.config.evaluation.targets_at_once)
    baselines = {arm.pair: arm.name for arm in arms if arm.method == BASELINE}
    against: dict[str, set[str]] = {}  # one training may stand beside several, of other budgets
    for arm in arms:
        if arm.method != BASELINE:
            against.setdefault(arm.name, set()).add(baselines[arm.pair])
    found = evaluate(run, targets, against)

    def losses(arm: Arm) -> dict[str, Any]:
        mine = dict(found[arm.name])
        if errors := mine.pop("errors_over_examples", None):
            mine["errors_over_examples"] = errors[baselines[arm.pair]]
        if arm.method in SELECTORS and SELECTORS[arm.method].like:
            mine["like"] = run.config.selection.like
        return mine

    return [
        {
            "method": arm.method,
            "budget": arm.budget,
            "match": arm.match,
            "selection_seed": arm.selection_seed,
            "training_seed": arm.training_seed,
            "examples": arm.count,
            "tokens": arm.tokens,
            "shared": arm.shared,
            "steps": targets[arm.name].info["step"],
            "trained_tokens": targets[arm.name].info["tokens"],
        }
        | losses(arm)
        for arm in arms
    ]
