"""What a run's selection cost, from its finished stages."""

from __future__ import annotations

from typing import Any

import ray

from s2l_ray.analysis.cost import Cost, Step, scoring_flops, training_flops
from s2l_ray.config import WorkersConfig
from s2l_ray.pipeline.marks import liked, selection_marks, selection_name
from s2l_ray.pipeline.run import Run
from s2l_ray.selection.selectors import SELECTORS
from s2l_ray.selection.subset import trainable_tokens
from s2l_ray.store import Manifest, Store
from s2l_ray.training.checkpoints import checkpoints_of


def cost_of(run: Run, selection: Manifest) -> Cost:
    """Of a run's selection, from the tokens on.

    Seconds are known of a training, and of other stages that this process has made as a whole.
    Stages without workers of their own may take all CPUs of the cluster, and are counted so.
    """
    config, done, choice = run.config, run.done, run.config.selection
    # Examples without a label token are neither trained on nor scored.
    proxy, corpus_tokens = done["proxy"], trainable_tokens(done["tokens"])
    labels = sum(part.stats["label_tokens"] for part in done["tokens"].parts)
    label_share = labels / corpus_tokens
    parameters = _parameters(run.store, proxy, label_share)
    made = {name: done[name].fingerprint for name in ("tokens", "proxy", "trajectories")}
    after = selection_marks(config, choice, made)
    own = {f"details/{when}" for when in SELECTORS[choice.selector].details}
    if SELECTORS[choice.selector].like:
        own |= {f"details/{when}" for when in SELECTORS[liked(choice).selector].details}
    # One pass makes a checkpoint's losses and details, of whichever selector asks for those.
    scored = set(done["losses"].info["steps"])
    details = {name: set(done[name].info["steps"]) for name in done if name.startswith("details/")}
    made_there = [name for name, steps in details.items() if steps <= scored]
    scored -= set().union(*(details[name] for name in made_there))
    steps = []
    needed = [stage for stage in after if stage in own or stage not in details]
    for stage in dict.fromkeys(["proxy", *made_there, "losses", "trajectories", *needed]):
        info, seconds, flops = done[stage].info, _seconds(run, stage), None
        number: int | None = int(ray.cluster_resources().get("CPU", 1))
        workers = WorkersConfig()
        if stage == "proxy":
            number, workers = info["workers"], config.proxy.workers
            seconds, flops = info["seconds"], training_flops(parameters, info["tokens"])
        elif stage in ("losses", "before") or stage.startswith("details/"):
            number, workers = config.trajectories.workers.num_workers, config.trajectories.workers
            if (config.trajectories.max_workers or number) > number:
                number = None  # the pool grows and shrinks
            passes = len(scored if stage == "losses" else info["steps"])
            flops = scoring_flops(parameters, passes * corpus_tokens)
        cpu, gpu = (
            None if seconds is None or number is None else seconds * number * share
            for share in (workers.cpus_per_worker, workers.gpus_per_worker)
        )
        steps.append(Step(stage, seconds, cpu, gpu, flops))
    epochs: float | None = proxy.info["tokens"] / corpus_tokens
    if config.target is not None:
        epochs = None if config.target.max_steps else config.target.epochs
    target = done.get(f"targets/{selection_name(choice.selector, choice.seed)}")
    return Cost(
        steps=steps,
        corpus_tokens=corpus_tokens,
        subset_tokens=selection.info["tokens"],
        epochs=epochs,
        like_proxy=config.target is None,
        parameters=None if target is None else _parameters(run.store, target, label_share),
        seconds=None if target is None else target.info["seconds"],
    )


def _seconds(run: Run, stage: str) -> float | None:
    """Of a stage that this process has made as a whole."""
    whole = [
        entry["seconds"]
        for entry in run.times
        if entry["stage"] == stage and not (entry["reused"] or entry["resumed"])
    ]
    return whole[-1] if whole else None


def _parameters(store: Store, training: Manifest, label_share: float) -> int:
    folder = max(checkpoints_of(training).items())[1]
    return ray.get(_count.remote(store.read_json(folder, "config.json"), label_share))


@ray.remote(num_cpus=1)
def _count(config: dict[str, Any], label_share: float) -> int:
    from s2l_ray.models.properties import (
        parameters_at_work,  # here alone: the driver starts without torch
    )

    return parameters_at_work(config, label_share)
