"""How the proxy's stages are made: its training, the losses at its checkpoints, and the signals
that some selectors need beside the losses."""

from __future__ import annotations

import re
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from s2l_ray.config import ModelConfig, RunConfig, SelectionConfig, TrainingConfig
from s2l_ray.execution.board import make_board, step_on
from s2l_ray.execution.nodes import check_room
from s2l_ray.models.files import base_of, is_adapter
from s2l_ray.models.origin import keep_model
from s2l_ray.pipeline.identity import liked
from s2l_ray.pipeline.stage import Job, Stage
from s2l_ray.scoring.losses import Scoring, score
from s2l_ray.scoring.while_training import score_while_training
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest
from s2l_ray.store.views import TokensView
from s2l_ray.training.checkpoints import (
    checkpoint_name,
    checkpoint_steps,
    checkpoints_of,
    checksums_of_checkpoints,
    dropped_checkpoints,
    need_checkpoints,
    num_steps,
    write_initial,
)
from s2l_ray.training.resume import TrainingState, checkpoints_so_far

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run


def train_proxy(plan: Plan, run: Run, *, folder: str, fingerprint: str) -> Manifest:
    """Train the proxy. With trajectories.while_training, score its checkpoints meanwhile, into the
    folders where the stages of losses and details will find them."""
    from s2l_ray.training.train import train

    config, store, tokens = plan.config, run.store, run.get(plan.tokens)
    check_room("trajectories.workers", config.trajectories.workers)  # now, not after the training
    steps = num_steps(config.proxy, TokensView(tokens).trainable)
    kept = checkpoint_steps(config.proxy, steps)
    wanted, whens = columns(config, config.selection), {kept[0]: "early", kept[-1]: "final"}
    details = plan.details(config.selection)

    def scorings(steps: list[int]) -> list[Scoring]:
        checkpoints: dict[str, dict[int, str]] = {}
        for step in steps:
            when = whens.get(step, "")  # losses are copied from details, if there are any
            mine = checkpoints.setdefault(when if when in details else "", {})
            mine[step] = f"{folder}/{checkpoint_name(step)}"
        return [
            Scoring(
                tokens,
                mine,
                details[when].folder if when else plan.losses.folder,
                "",
                signals=wanted.get(when, ()),
            )
            for when, mine in checkpoints.items()
        ]

    board = make_board()
    ahead = (
        score_while_training(
            store,
            config.trajectories,
            checkpoints=partial(checkpoints_so_far, store, folder),
            scorings=scorings,
            step=partial(step_on, board),
        )
        if config.trajectories.while_training
        else nullcontext()
    )
    with ahead:
        return train(
            store,
            tokens,
            config.proxy,
            tokenizer_folder=TokensView(tokens).tokenizer,
            seed=config.seed,
            label=f"{plan.prefix}proxy",
            board=board,
            folder=folder,
            fingerprint=fingerprint,
        )


def given_model(proxy: TrainingConfig, checkpoint: str) -> ModelConfig:
    """Return the model that an entry of proxy.checkpoints names: a folder, or a revision."""
    if Path(checkpoint).is_dir():
        return ModelConfig(name=checkpoint)
    return ModelConfig(name=proxy.model.name, revision=checkpoint)


def take_checkpoints(
    settings: TrainingConfig, run: Run, *, folder: str, fingerprint: str
) -> Manifest:
    """Make a proxy of checkpoints that exist. Those of a hub are copied into the run."""
    assert settings.checkpoints is not None
    origins = [keep_model(run.store, given_model(settings, c)) for c in settings.checkpoints]
    adapters = [folder for folder in origins if folder and is_adapter(folder)]
    bases = [keep_model(run.store, base) for base in {base_of(folder) for folder in adapters}]
    state = TrainingState(checkpoints=steps_of(settings.checkpoints), workers=0)
    state.step = state.checkpoints[-1]
    info = state.as_info() | {"folders": origins, "bases": bases}
    del info["files"]
    return run.store.commit(folder, fingerprint, [], info)


def steps_of(checkpoints: list[str]) -> list[int]:
    """Return the steps of checkpoints: the last numbers in their names if these rise, otherwise 1,
    2, …"""
    found = [re.findall(r"\d+", name.rstrip("/").rpartition("/")[2]) for name in checkpoints]
    steps = [int(numbers[-1]) for numbers in found if numbers]
    rising = all(before < after for before, after in pairwise(steps))
    whole = len(steps) == len(checkpoints) and rising
    return steps if whole else [*range(1, len(checkpoints) + 1)]


def score_proxy(plan: Plan, run: Run, *, folder: str, fingerprint: str) -> Manifest:
    """Score every example at every checkpoint. Losses that came with details are copied."""
    proxy = run.get(plan.proxy)
    gone = dropped_checkpoints(run.store, proxy, checkpoints_of(proxy))
    if plan.generation and gone:  # one trained again might be another
        raise ValueError(
            f"corpus.grow: {run.store.address(proxy.folder, gone[0])} was removed after it was "
            "scored (proxy.keep_checkpoints), and new examples must be scored there: train the "
            "proxy again on all files with `s2l-ray refit`"
        )
    need_checkpoints(run.store, proxy, checkpoints_of(proxy))
    scoring = Scoring(
        run.get(plan.tokens),
        checkpoints_of(proxy),
        folder,
        fingerprint,
        checksums=checksums_of_checkpoints(proxy),
        known={
            _step_of(proxy, when): run.get(stage)
            for when, stage in plan.details(plan.config.selection).items()
        },
    )
    label = f"score {plan.prefix.rstrip('/')}".rstrip()
    return score(run.store, [scoring], plan.config.trajectories, label=label)[0]


def columns(config: RunConfig, choice: SelectionConfig) -> dict[str, tuple[str, ...]]:
    """Return the names of the signals to compute together, by "early" and "final"."""
    own = config.selection
    named = [own.model_copy(update={"selector": each}) for each in config.evaluation.baselines]
    named = [contender for each in [own, choice, *named] for contender in each.contenders]
    named += [liked(each) for each in named if selector_named(each.selector).like]
    found: dict[str, set[str]] = {"early": set(), "final": set()}
    for each in named:
        for when, columns in selector_named(each.selector).details.items():
            found[when].update(columns)
    return {when: tuple(sorted(columns)) for when, columns in found.items() if columns}


def score_details(plan: Plan, run: Run, jobs: list[Job]) -> list[Manifest]:
    """Score the signals of the first and the last checkpoint, together with the losses there."""
    proxy, scorings = run.get(plan.proxy), []
    for job in jobs:
        step = _step_of(proxy, job.stage.name.removeprefix("details/"))
        need_checkpoints(run.store, proxy, [step])
        scorings.append(
            Scoring(
                run.get(plan.tokens),
                {step: checkpoints_of(proxy)[step]},
                **job.where,
                checksums=checksums_of_checkpoints(proxy),
                signals=job.stage.settings[-1],
            )
        )
    return score(run.store, scorings, run.config.trajectories, label="score details")


def score_before(plan: Plan, run: Run, *, folder: str, fingerprint: str) -> Manifest:
    """Score the proxy as it is before its training: one checkpoint, step 0."""
    tokens, config = run.get(plan.tokens), run.config
    model = f"{folder}/resume/{checkpoint_name(0)}"
    tokenizer = TokensView(tokens).tokenizer
    origin = keep_model(run.store, config.proxy.model)
    initial = (config.proxy, origin, tokenizer, config.seed, model)
    if run.store.manifest(model) is None:
        ray.get(write_initial.remote(run.store, *initial))
    scoring = Scoring(tokens, {0: model}, folder, fingerprint)
    [manifest] = score(run.store, [scoring], config.trajectories, label="score before")
    run.store.remove(folder, "resume")  # nothing else reads the model
    return manifest


def score_last(plan: Plan, tokens: Stage, run: Run, *, folder: str, fingerprint: str) -> Manifest:
    """Score other tokens of the examples at the last checkpoint."""
    proxy = run.get(plan.proxy)
    step = _step_of(proxy, "final")
    need_checkpoints(run.store, proxy, [step])
    scoring = Scoring(
        run.get(tokens),
        {step: checkpoints_of(proxy)[step]},
        folder,
        fingerprint,
        checksums=checksums_of_checkpoints(proxy),
    )
    return score(run.store, [scoring], plan.config.trajectories, label="score without prompts")[0]


def _step_of(proxy: Manifest, when: str) -> int:
    return {"early": min, "final": max}[when](checkpoints_of(proxy))
