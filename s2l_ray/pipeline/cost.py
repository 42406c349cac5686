"""What a run's selection cost, from its finished stages."""

from __future__ import annotations

from typing import Any

import ray

from s2l_ray.analysis.cost import Cost, Step, scoring_flops, training_flops
from s2l_ray.config import ModelConfig, WorkersConfig
from s2l_ray.execution.connect import connect
from s2l_ray.execution.nodes import num_cpus
from s2l_ray.models.headers import parameters_at_work, shapes_in
from s2l_ray.models.origin import origin_of
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.race import RESULT, TARGETS, race_config
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Stage, walk
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import SelectionView, StepsView, TokensView, TrainingView
from s2l_ray.training.checkpoints import checkpoints_of, config_of


def cost_of(run: Run, selection: Manifest) -> Cost:
    """Return the cost of a run's selection, from the tokens on.

    The seconds of a training are always known, those of other stages if this process made them as a
    whole. A stage without workers of its own may take every CPU of the cluster, and is counted so.
    """
    config, plan, choice = run.config, run.plan, run.config.selection
    tokens = TokensView(run.get(plan.tokens))
    # Examples without a label token are neither trained on nor scored.
    corpus_tokens = tokens.trainable_tokens
    label_share = tokens.label_tokens / corpus_tokens
    epochs: float | None = None
    parameters = 0  # of a proxy that was trained elsewhere, nothing is known
    stages = [*walk([plan.selection(choice)])]
    if proxies := [run.get(stage) for stage in stages if stage.name.endswith("proxy")]:
        parameters = _parameters(run.store, proxies[0], label_share, config.proxy.model)
    raced = next((run.get(each) for each in stages if each.name.startswith(TARGETS)), None)
    of_race = parameters
    if raced is not None:
        of = race_config(config, choice).target
        assert of is not None
        of_race = _parameters(run.store, raced, label_share, of.model)
    if config.trains_proxy:
        epochs = sum(TrainingView(proxy).tokens or 0 for proxy in proxies) / corpus_tokens or None
    steps = [
        _step(run, stage, of_race if stage.name.startswith(TARGETS) else parameters)
        for stage in stages
        if not stage.name.endswith(("corpus", "tokens"))
    ]
    subset, trained_tokens = SelectionView(selection), None
    if config.target is not None:
        epochs = None if config.target.max_steps else config.target.epochs
        examples = (config.target.max_steps or 0) * config.target.global_batch_size
        trained_tokens = examples * subset.tokens / subset.examples
    name = f"targets/{selection_name(choice.selector, choice.seed)}"
    target, trained_target = run.done.get(name), None
    unknown = target is not None and TrainingView(target).tokens is None  # of target.train
    if target is not None and config.target is not None:
        training, workers = TrainingView(target), config.target.workers
        each = training.seconds * training.workers
        cpu, gpu = each * workers.cpus_per_worker, each * workers.gpus_per_worker
        trained_target = Step(name, training.seconds, cpu, gpu, None)
    return Cost(
        steps=steps,
        corpus_tokens=corpus_tokens,
        subset_tokens=subset.tokens,
        epochs=epochs,
        adapters=(config.target or config.proxy).lora is not None,
        like_proxy=config.target is None,
        trained_elsewhere=not config.trains_proxy,
        parameters=None
        if target is None or config.target is None or unknown
        else _parameters(run.store, target, label_share, config.target.model),
        trained_tokens=trained_tokens or None,
        target=trained_target,
        prices=config.prices,
    )


def _step(run: Run, stage: Stage, parameters: int) -> Step:
    manifest, work = run.get(stage), stage.work
    seconds, flops = _seconds(run, stage.name), None
    workers = work.workers or WorkersConfig()
    number: int | None = workers.num_workers
    if work.passes == "training":
        training = TrainingView(manifest)
        number, seconds = training.workers, training.seconds
        assert training.tokens is not None, "only target.train may not tell them"
        flops = training_flops(parameters, training.tokens, run.config.proxy.lora is not None)
    elif work.passes == "scoring":
        if (work.max_workers or workers.num_workers) > workers.num_workers:
            number = None  # the pool grows and shrinks
        # One pass gives a checkpoint's losses and details; it is counted at the details.
        steps = set(StepsView(manifest).steps)
        for each in stage.reads:
            if each.work.passes:
                steps -= set(StepsView(run.get(each)).steps)
        tokens = TokensView(run.get(stage.inputs[-1])).trainable_tokens
        flops = scoring_flops(parameters, len(steps) * tokens)
    else:
        number = None if seconds is None else num_cpus()
    if stage.name == RESULT:  # nearly all of it is evaluating
        workers = run.config.trajectories.workers
        number = workers.num_workers
    cpu, gpu = (
        None if seconds is None or number is None else seconds * number * share
        for share in (workers.cpus_per_worker, workers.gpus_per_worker)
    )
    return Step(stage.name, seconds, cpu, gpu, flops)


def _seconds(run: Run, name: str) -> float | None:
    """Of a stage that this process has made as a whole."""
    for entry in run.times:
        if entry["stage"] == name and not (entry["reused"] or entry["resumed"]):
            return entry["seconds"]
    return None


def _parameters(store: Store, training: Manifest, label_share: float, model: ModelConfig) -> int:
    """By the headers of the checkpoint's weights, or of those of its base, if it is an adapter."""
    folder = max(checkpoints_of(training).items())[1]
    config = config_of(store, folder)
    for place in (folder, origin_of(model)):
        shapes = None if place is None else shapes_in(store, place)
        if shapes and (count := parameters_at_work(shapes, config, label_share)) is not None:
            return count
    connect()
    return ray.get(_count.remote(config, label_share))


@ray.remote(num_cpus=1)
def _count(config: dict[str, Any], label_share: float) -> int:
    # Imported here alone: the driver starts without torch.
    from s2l_ray.models.properties import parameters_at_work

    return parameters_at_work(config, label_share)
