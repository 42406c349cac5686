"""What a run has of its proxy: its training, the losses at its checkpoints and what else some
selectors ask for there, and the trajectories."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

import ray

from s2l_ray.config import SelectionConfig
from s2l_ray.execution.board import make_board, step_on
from s2l_ray.execution.nodes import check_room
from s2l_ray.pipeline.marks import details_marks, details_wanted, trajectories_marks
from s2l_ray.pipeline.run import Run
from s2l_ray.scoring.losses import Scoring, score, score_ahead
from s2l_ray.scoring.trajectories import assemble
from s2l_ray.scoring.while_training import meanwhile
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import (
    checkpoint_name,
    checkpoint_steps,
    checkpoints_of,
    checksums_of_checkpoints,
    num_steps,
    write_initial,
)
from s2l_ray.training.resume import checkpoints_so_far
from s2l_ray.training.train import train


def make_trajectories(run: Run) -> Manifest:
    """Proxy, losses and trajectories of a run that has its corpus and tokens."""
    examples, tokens = run.done["corpus"], run.done["tokens"]
    marks = trajectories_marks(run.config, tokens.fingerprint)
    proxy = run.stage(
        "proxy",
        marks["proxy"],
        partial(_train_proxy, run, tokens, {n: f"{n}/{mark}" for n, mark in marks.items()}),
    )
    details = details_of(run, run.config.selection)
    known = {_step_of(proxy, when): manifest for when, manifest in details.items()}
    checkpoints, made_of = checkpoints_of(proxy), checksums_of_checkpoints(proxy)

    def score_all(folder: str, fingerprint: str) -> Manifest:
        scoring = Scoring(tokens, checkpoints, folder, fingerprint, made_of, known=known)
        return score(run.store, [scoring], run.config.trajectories)[0]

    losses = run.stage("losses", marks["losses"], score_all)
    return run.stage(
        "trajectories",
        marks["trajectories"],
        partial(assemble, run.store, examples, losses),
    )


def _train_proxy(run: Run, tokens: Manifest, folders: Mapping[str, str], **stage: str) -> Manifest:
    """folders: of the stages whose parts may be made meanwhile."""
    config, store = run.config, run.store
    check_room("trajectories.workers", config.trajectories.workers)  # now, not after the training
    examples = sum(part.stats["trainable"] for part in tokens.parts)
    kept = checkpoint_steps(config.proxy, num_steps(config.proxy, examples))
    wanted, whens = details_wanted(config, config.selection), {kept[0]: "early", kept[-1]: "final"}

    def score_new(steps: list[int], stop: threading.Event) -> None:
        checkpoints: dict[str, dict[int, str]] = {}
        for step in steps:
            when = whens.get(step, "")  # where details are wanted: from there losses are copied
            mine = checkpoints.setdefault(when if when in wanted else "", {})
            mine[step] = f"{stage['folder']}/{checkpoint_name(step)}"
        scorings = [
            Scoring(
                tokens,
                mine,
                folders[f"details/{when}" if when else "losses"],
                "",
                details=wanted.get(when, ()),
            )
            for when, mine in checkpoints.items()
        ]
        score_ahead(store, scorings, config.trajectories, stop)

    board = make_board()
    ahead = (
        meanwhile(
            partial(checkpoints_so_far, store, stage["folder"]),
            score_new,
            config.trajectories.workers,
            partial(step_on, board),
        )
        if config.trajectories.while_training
        else nullcontext()
    )
    with ahead:
        return train(
            store,
            tokens,
            config.proxy,
            tokenizer_folder=tokens.info["tokenizer"],
            seed=config.seed,
            label="proxy",
            board=board,
            **stage,
        )


def details_of(run: Run, selection: SelectionConfig) -> dict[str, Manifest]:
    """Stages of what selectors ask for beside the losses, by "early" and "final" (the proxy's first
    and last checkpoint): what this selection asks for, and those that the run names."""
    tokens, proxy = run.done["tokens"], run.done["proxy"]
    wanted = details_wanted(run.config, selection)
    checkpoints, made_of = checkpoints_of(proxy), checksums_of_checkpoints(proxy)

    def make(missing: dict[str, dict[str, str]]) -> list[Manifest]:
        scorings = []
        for name, where in missing.items():
            when = name.removeprefix("details/")
            step = _step_of(proxy, when)
            scorings.append(
                Scoring(
                    tokens,
                    {step: checkpoints[step]},
                    where["folder"],
                    where["fingerprint"],
                    marks=made_of,
                    details=wanted[when],
                )
            )
        return score(run.store, scorings, run.config.trajectories, label="score details")

    marks = {"tokens": tokens.fingerprint, "proxy": proxy.fingerprint}
    made = run.stages(details_marks(run.config, selection, marks), make)
    return {when: made[f"details/{when}"] for when in wanted}


def _step_of(proxy: Manifest, when: str) -> int:
    return {"early": min, "final": max}[when](checkpoints_of(proxy))


def score_before(run: Run, *, folder: str, fingerprint: str) -> Manifest:
    """Losses under the proxy as it is before its training, one checkpoint, step 0."""
    tokens, config = run.done["tokens"], run.config
    model = f"{folder}/{checkpoint_name(0)}"
    ray.get(
        write_initial.remote(
            run.store, config.proxy.model, tokens.info["tokenizer"], config.seed, model
        )
    )
    scoring = Scoring(tokens, {0: model}, folder, fingerprint)
    return score(run.store, [scoring], config.trajectories, label="score before")[0]
