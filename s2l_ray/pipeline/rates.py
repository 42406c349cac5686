"""Tokens per second of a run's trainings and scorings: given, measured here, or assumed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import RunConfig, TrainingConfig, WorkersConfig
from s2l_ray.formatting import plural
from s2l_ray.models.memory import config_of, training_memory
from s2l_ray.models.peaks import SCORING_SHARE, TRAINING_SHARE, operations, peak_of
from s2l_ray.models.properties import parameters_at_work
from s2l_ray.pipeline.speed import SECONDS, Trial, measure, processes_for
from s2l_ray.pipeline.workload import Counts, Workload

ROOM = 0.4  # share of the machine's memory that a measurement may take


class Size(NamedTuple):
    """Weights of a model: all, and those that an average token is multiplied with."""

    weights: int
    at_work: int


class Rate(NamedTuple):
    """Tokens/s of one worker that trains, and of one actor that scores; None: unknown, `how` says
    why. start: seconds until a training's workers are ready; None: not measured. at_once:
    trainings that run side by side."""

    training: float | None
    scoring: float | None
    how: str
    start: float | None = None
    at_once: int = 1


@dataclass(frozen=True)
class Given:
    """What the user says of the hardware. gpu: a name in models.peaks. tokens_per_second: of all
    workers that train the proxy."""

    gpu: str | None = None
    tokens_per_second: float | None = None


def size_of(training: TrainingConfig, label_share: float) -> Size:
    """Count a model's weights. ValueError or OSError if its config.json is out of reach."""
    fields = config_of(training.model).to_json_string(use_diff=False)
    return _size(fields, round(label_share, 3))


@lru_cache(maxsize=16)
def _size(fields: str, label_share: float) -> Size:
    config = json.loads(fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return Size(model.num_parameters(), parameters_at_work(config, label_share))


def operations_of(training: TrainingConfig, size: Size) -> float:
    """Floating-point operations of training on a token (analysis/cost.py)."""
    return (4.0 if training.lora is not None else 6.0) * size.at_work


def rates(work: Workload, sizes: dict[str, Size], given: Given) -> dict[str, Rate]:
    """Return the rates of "proxy" and "target", the latter if there is one.

    Measures what runs on CPUs or on a GPU of this machine, for a few seconds each. ValueError if a
    GPU is given that no worker has.
    """
    config, found = work.config, dict[str, Rate]()
    trained = [training for _, training, *_ in _trainings(config, work)]
    if given.gpu is not None and not any(each.workers.gpus_per_worker for each in trained):
        raise ValueError(
            f"--gpu {given.gpu}: no worker that trains has a GPU: set "
            "proxy.workers.gpus_per_worker=1, and so on"
        )
    for section, training, counts, copies in _trainings(config, work):
        if section not in sizes:  # its config.json is out of reach
            found[section] = Rate(None, None, "the model is unknown")
            continue
        if section == "proxy" and config.losses is not None:
            found[section] = Rate(None, None, "losses.path takes the place of the proxy")
            continue
        size = sizes[section]
        if training.train is not None:
            found[section] = Rate(None, None, f"{training.train} trains as it likes")
        elif given.tokens_per_second is not None:
            found[section] = _scaled(given.tokens_per_second, training, config, sizes, copies)
        elif training.workers.gpus_per_worker:
            found[section] = _on_gpus(training, config, counts, size, given, copies)
        else:
            found[section] = _measured(training, config, counts, size, copies)
        scoring = config.trajectories.workers
        if section == "target":
            scoring = config.evaluation.workers or scoring
        if (scoring.gpus_per_worker > 0) != (training.workers.gpus_per_worker > 0):
            other = f"{found[section].how}; actors that score have other hardware, of unknown speed"
            found[section] = found[section]._replace(scoring=None, how=other)
    if (target := found.get("target")) is not None and target.training is None:
        found["target"] = _like_proxy(target, found["proxy"], config, sizes)
    return found


def _trainings(config: RunConfig, work: Workload) -> list[tuple[str, TrainingConfig, Counts, int]]:
    found = [("proxy", config.proxy, work.proxy, 1)]
    if config.target is not None and work.target is not None:
        found.append(("target", config.target, work.target, config.evaluation.targets_at_once))
    return found


def _scaled(
    tokens: float,
    training: TrainingConfig,
    config: RunConfig,
    sizes: dict[str, Size],
    copies: int,
) -> Rate:
    """From the proxy's rate: by operations per token, the same for each worker."""
    size = sizes["target" if training is config.target else "proxy"]
    made = tokens * operations_of(config.proxy, sizes["proxy"]) / config.proxy.workers.num_workers
    return Rate(
        made / operations_of(training, size),
        made / (2.0 * size.at_work),
        "from --tokens-per-second, by operations per token",
        at_once=copies,
    )


def _on_gpus(
    training: TrainingConfig,
    config: RunConfig,
    counts: Counts,
    size: Size,
    given: Given,
    copies: int,
) -> Rate:
    if given.gpu is None and torch.cuda.is_available():
        return _measured(training, config, counts, size, copies)
    name = given.gpu or training.workers.accelerator_type
    known = peak_of(name)
    if known is None:
        what = f"no rate is known of {name}" if name else "this machine has no GPU to measure"
        return Rate(None, None, f"{what}; give --gpu or --tokens-per-second")
    kind, peak = known
    trained = operations(peak, training.dtype)
    settings = config.trajectories
    scored = operations(peak, settings.dtype, tf32=settings.tf32)
    scored *= min(1.0, settings.workers.gpus_per_worker)  # actors may share a GPU
    return Rate(
        TRAINING_SHARE * trained / operations_of(training, size),
        SCORING_SHARE * scored / (2.0 * size.at_work),
        f"estimate for {kind}: {TRAINING_SHARE:.0%} of its peak in training, {SCORING_SHARE:.0%} "
        f"in scoring, both assumed ({peak.sheet})",
        at_once=copies,
    )


def _measured(
    training: TrainingConfig, config: RunConfig, counts: Counts, size: Size, copies: int
) -> Rate:
    world, side_by_side = processes_for(training, copies)
    model = config_of(training.model)
    longest = max(len(ids) for ids, _ in counts.some)
    memory = training_memory(training.model_copy(update={"lora": None}), model, longest)
    if memory.on_host * world * side_by_side > ROOM * _memory():
        return Rate(None, None, "too large to measure on this machine")
    fields = model.to_dict()
    full = training.model_copy(update={"lora": None, "optimizer": "adamw"})
    trial = Trial(full, config.trajectories, fields, counts.some, 6.0 * size.at_work)
    try:
        speed = measure(trial, copies)
    except (ValueError, OSError) as error:
        return Rate(None, None, str(error))
    faster = 6.0 * size.at_work / operations_of(training, size)
    told = f"measured here for {SECONDS:.0f} s, {plural(speed.processes, 'worker')} at work"
    if training.lora is not None:
        told += " that trained all weights, taken as 4/6 of the work with adapters"
    if world < training.workers.num_workers:
        told += f"; {training.workers.num_workers} workers are taken as so many times one"
    return Rate(speed.training * faster, speed.scoring, told, speed.start, side_by_side)


def _like_proxy(target: Rate, proxy: Rate, config: RunConfig, sizes: dict[str, Size]) -> Rate:
    """Of a target that cannot be measured on CPUs: as many operations/s as the proxy."""
    same = _kind(config.proxy.workers) == _kind((config.target or config.proxy).workers)
    if proxy.training is None or proxy.scoring is None or not same or config.target is None:
        return target
    if config.target.train is not None or "target" not in sizes:
        return target
    made = proxy.training * operations_of(config.proxy, sizes["proxy"])
    return Rate(
        made / operations_of(config.target, sizes["target"]),
        proxy.scoring * sizes["proxy"].at_work / sizes["target"].at_work,
        f"{target.how}; as many operations/s as the proxy",
    )


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kind(workers: WorkersConfig) -> tuple[Any, ...]:
    return workers.gpus_per_worker > 0, workers.cpus_per_worker, workers.accelerator_type
