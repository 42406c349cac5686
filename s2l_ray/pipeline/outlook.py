"""All that `plan` tells: stages, memory, time, money, odds, and what does not fit. Starts no Ray,
and writes nothing to the run directory."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from s2l_ray.analysis.cost import AgainstRandom
from s2l_ray.config import RunConfig, WorkersConfig, parse_budget
from s2l_ray.formatting import percent, plural
from s2l_ray.models.room import gigabytes
from s2l_ray.pipeline.forecast import Forecast, Need, forecasts, needs
from s2l_ray.pipeline.odds import Sensitivity, against_random, sensitivities
from s2l_ray.pipeline.pilot import comparison_price
from s2l_ray.pipeline.plan import Plan, corpus_stage
from s2l_ray.pipeline.planned_laws import Planned, planned_laws
from s2l_ray.pipeline.pricing import Price, Pricing, total
from s2l_ray.pipeline.rates import Given, Rate, Size, rates, size_of
from s2l_ray.pipeline.workload import Workload, workload
from s2l_ray.store import Store

MANY_TRUNCATED = 0.1  # share of the examples


@dataclass
class Outlook:
    """What a run would do and take. work is None if the sources cannot be read: `unknown` says why,
    and nothing is priced."""

    config: RunConfig
    stages: list[Forecast]
    unknown: str
    needs: list[Need]
    work: Workload | None = None
    rates: dict[str, Rate] = field(default_factory=dict)
    prices: list[Price] = field(default_factory=list)
    total: Price | None = None
    against: AgainstRandom | None = None
    compared: Price | None = None  # `compare`, from nothing
    sensitivities: list[Sensitivity] = field(default_factory=list)
    laws: Planned | None = None  # of the selections; None without trajectories
    unfit: list[str] = field(default_factory=list)  # what does not fit, and what to change


def outlook(config: RunConfig, given: Given, gpu_memory: float | None = None) -> Outlook:
    """Look ahead at `pipeline`, or at `select` if there is no target.

    gpu_memory: bytes of one GPU, to compare with. Takes some seconds: see rates.rates.
    """
    stages, unknown = forecasts(config)
    found = Outlook(config, stages, unknown, needs(config, gpu_memory))
    if unknown:
        return found
    pricing = price(config, given)
    if isinstance(pricing, str):
        found.unknown = pricing
        return found
    found.work, found.rates = pricing.work, pricing.rates
    found.prices = [pricing.price(stage) for stage in stages]
    found.total = total(found.prices)
    found.against = against_random(pricing, stages)
    plan, store = Plan(config, corpus_stage(config)), Store(config.run_dir, config.storage)
    found.laws = planned_laws(config, plan, store, pricing.work.chosen(config.selection.budget))
    if config.target is not None:
        found.sensitivities = sensitivities(pricing.work)
        found.compared = comparison_price(pricing)
    found.unfit = unfit(pricing, found.total)
    return found


def price(config: RunConfig, given: Given) -> Pricing | str:
    """Count, sample and measure what prices need; or say what keeps them from being known."""
    store = Store(config.run_dir, config.storage)
    try:
        work = workload(config, Plan(config, corpus_stage(config)), store)
    except (ValueError, OSError) as error:
        return str(error).strip().partition("\n")[0]
    sizes = dict[str, Size]()
    sections = [("proxy", config.proxy, work.proxy)]
    if config.target is not None and work.target is not None:
        sections.append(("target", config.target, work.target))
    for name, training, counts in sections:
        try:
            sizes[name] = size_of(training, counts.label_share)
        except (ValueError, OSError) as error:
            if name == "proxy":
                return str(error).strip().partition("\n")[0]
    return Pricing(work, sizes, rates(work, sizes, given))


def unfit(pricing: Pricing, all_of_it: Price) -> list[str]:
    """Say what does not fit the corpus or this machine, and what to change. The memory of models
    is told apart (forecast.needs)."""
    config, work = pricing.config, pricing.work
    examples, found = work.proxy.examples, list[str]()
    about = "" if work.counted else "about "
    if work.proxy.truncated > MANY_TRUNCATED:
        found.append(
            f"prompt.max_length: {percent(work.proxy.truncated)} of the examples are longer than "
            f"{config.prompt.max_length:,} tokens and are cut: raise it"
        )
    kind, amount = parse_budget(config.selection.budget)
    have = {"examples": examples, "tokens": work.proxy.tokens, "share": 1}[kind]
    if amount > have:
        found.append(
            f"selection.budget: {config.selection.budget}, but there are {about}{examples:,} "
            f"examples of {work.proxy.tokens:,} tokens: lower it"
        )
    if config.clusters.n_clusters > examples:
        found.append(
            f"clusters.n_clusters: {config.clusters.n_clusters:,}, but there are {about}"
            f"{plural(examples, 'example')}: lower it"
        )
    if config.trains_proxy and len(pricing.steps) < 2:
        found.append(
            "proxy: the training keeps one checkpoint, and a trajectory needs two: lower "
            "proxy.checkpoint_every, or train longer"
        )
    sections = {"proxy.workers": config.proxy.workers}
    sections["trajectories.workers"] = config.trajectories.workers
    if config.target is not None:
        sections["target.workers"] = config.target.workers
    found += [text for name, each in sections.items() if (text := _crowded(name, each))]
    if "://" not in config.run_dir and (free := _free(config.run_dir)) < all_of_it.stored.bytes:
        found.append(
            f"run_dir: about {gigabytes(all_of_it.stored.bytes)}, but {config.run_dir} has "
            f"{gigabytes(free)} left: take another disk, or keep fewer checkpoints"
        )
    return found


def _crowded(name: str, workers: WorkersConfig) -> str:
    cpus = len(os.sched_getaffinity(0))
    wanted = workers.num_workers * workers.cpus_per_worker
    if workers.gpus_per_worker or wanted <= cpus:
        return ""
    return (
        f"{name}: {plural(workers.num_workers, 'worker')} would reserve {wanted:g} CPUs, and this "
        f"machine has {cpus}: lower num_workers, or run on a cluster"
    )


def _free(run_dir: str) -> int:
    place = Path(run_dir).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
