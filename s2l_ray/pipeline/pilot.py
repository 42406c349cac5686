"""The comparison that a price allows, to learn whether selecting pays: which corpus, target and
seeds. pipeline/comparison.py then runs it, in a run directory of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from s2l_ray.analysis.decision import BALANCED
from s2l_ray.analysis.statistics import MIN_UNITS
from s2l_ray.config import BASELINE, RunConfig, TrainingConfig, parse_budget
from s2l_ray.formatting import duration, plural
from s2l_ray.pipeline import timing
from s2l_ray.pipeline.comparison import num_targets, num_untuned
from s2l_ray.pipeline.forecast import TO_DO, Forecast, stages_of
from s2l_ray.pipeline.pricing import Price, Pricing
from s2l_ray.pipeline.race import stand_in
from s2l_ray.pipeline.race_price import like_proxy
from s2l_ray.pipeline.stage import Stage

SEEDS = (MIN_UNITS, 3)  # enough for a verdict; or for a first look
SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01)  # of the corpus
LEAST = 1000  # examples of a corpus
HELDOUT = 500  # examples held out, if MOST_HELDOUT allows it
MOST_HELDOUT = 0.2
LEAST_CHOSEN = 100  # examples of a subset
CLUSTERS = 10  # at least, if the run has as many
OVER = 1.25  # of the price, that a pilot may take; then it ends with the seeds that it has


class Limit(NamedTuple):
    """What a pilot may take; one of the two is set."""

    gpu_hours: float | None = None
    minutes: float | None = None

    def share(self, price: Price) -> float | None:
        """Return the share of it that a comparison takes; None: unknown."""
        if self.gpu_hours is not None:
            return None if price.gpu_hours is None else price.gpu_hours / self.gpu_hours
        assert self.minutes is not None
        return None if price.seconds is None else price.seconds / 60 / self.minutes

    @property
    def told(self) -> str:
        if self.gpu_hours is not None:
            return f"{self.gpu_hours:g} GPU-hours"
        assert self.minutes is not None
        return duration(60 * self.minutes)


class Pilot(NamedTuple):
    """A comparison, its price, and the choices that were made."""

    config: RunConfig
    price: Price
    told: list[str]


def run_dir_of(config: RunConfig) -> str:
    return config.run_dir.rstrip("/") + "-pilot"


def choose(pricing: Pricing, limit: Limit) -> Pilot:
    """Choose the comparison that tells most within the limit: six seeds, which allow a verdict,
    rather than three; the run's own target rather than one of the proxy's size; then as much of the
    corpus as fits. ValueError if none fits, with the price of the cheapest.
    """
    config = pricing.config
    if config.selection.selector == BASELINE:
        raise ValueError(f"selection.selector: {BASELINE} is what others are compared with")
    if limit.gpu_hours is not None and not _uses_gpus(config):
        raise ValueError("--gpu-hours: no stage of this configuration has a GPU; give --minutes")
    cheapest: tuple[float, Pilot] | None = None
    for pilot in _candidates(pricing):
        share = limit.share(pilot.price)
        if share is None:
            how = "; ".join(f"{section}: {rate.how}" for section, rate in pricing.rates.items())
            raise ValueError(f"the time of a pilot is unknown ({how})")
        if share <= 1:
            return pilot
        if cheapest is None or share < cheapest[0]:
            cheapest = share, pilot
    if cheapest is None:
        raise ValueError(
            f"corpus.path: about {plural(pricing.work.proxy.examples, 'example')}, too few for a "
            f"pilot, whose subset needs {LEAST_CHOSEN}: raise selection.budget"
        )
    share, pilot = cheapest
    needed = (
        f"--gpu-hours {math.ceil(100 * share * limit.gpu_hours) / 100:g}"
        if limit.gpu_hours is not None
        else f"--minutes {math.ceil(share * (limit.minutes or 0))}"
    )
    raise ValueError(
        f"no comparison fits {limit.told}; the cheapest needs {needed} ({'; '.join(pilot.told)})"
    )


def _candidates(pricing: Pricing) -> Iterator[Pilot]:
    config, have = pricing.config, pricing.work.proxy.examples
    shares = SHARES if config.losses is None else SHARES[:1]  # losses are of the whole corpus
    targets = [config.target] if config.target is not None else []
    if config.target is None or config.target.model != config.proxy.model:
        targets.append(stand_in(config))
    for seeds in SEEDS:
        for target in targets:
            for share in shares:
                few = share * have < LEAST and share < 1
                if few or share * pricing.work.chosen(config.selection.budget) < LEAST_CHOSEN:
                    continue
                pilot = derived(pricing, target, share, seeds)
                if pilot is not None:
                    yield pilot


def mains_of(config: RunConfig) -> list[str]:
    """Return the selectors that a pilot is about: the run's own, or the candidates of its race."""
    return [each.selector for each in config.selection.contenders if each.selector != BASELINE]


def derived(pricing: Pricing, target: TrainingConfig, share: float, seeds: int) -> Pilot | None:
    """Return the comparison with these choices. None if its proxy would keep one checkpoint."""
    config, work = pricing.config, pricing.work
    own = target is config.target
    examples = round(share * work.proxy.examples)
    kind, amount = parse_budget(config.selection.budget)
    budget: Any = config.selection.budget
    if kind != "share" and share < 1:
        budget = max(1, round(amount * share))
        budget = f"{budget} tokens" if kind == "tokens" else budget
    before = heldout = work.heldout / max(1, work.proxy.examples + work.heldout)
    if config.corpus.heldout_share:
        before = heldout = config.corpus.heldout_share
    if not config.evaluation.files and config.corpus.heldout_per_source is None:
        heldout = min(MOST_HELDOUT, max(heldout, HELDOUT / max(1, examples)))
    clusters = config.clusters.n_clusters
    fewer = max(min(CLUSTERS, clusters), round(clusters * share))
    mains, actors = mains_of(config), config.trajectories.workers.num_workers
    data = config.model_dump(mode="json", exclude_unset=True)
    data |= {
        "name": f"{config.name}-pilot",
        "run_dir": run_dir_of(config),
        "corpus": data["corpus"] | {
            "share": config.corpus.share * share,
            "heldout_share": 0.0
            if config.corpus.heldout_per_source is not None
            else round(heldout, 4),
            "num_parts": max(actors, round(work.num_parts * share)),
        },
        "clusters": data.get("clusters", {}) | {"n_clusters": fewer, "stability": False},
        "selection": data.get("selection", {}) | {
            "selector": mains[0],
            "budget": budget,
            "export": [],
        },
        "target": target.model_dump(mode="json", exclude_unset=True),
        "compare": {
            "primary": config.compare.primary,
            "selectors": list(dict.fromkeys([*mains, BALANCED, BASELINE])),
            "budgets": [budget],
            "seeds": list(range(seeds)),
            "full": ["compute"],
            "untuned": False,
            "worth": [],
        },
    }  # fmt: skip
    if not own:
        data["target_prompt"] = None
    found = RunConfig.model_validate(data)
    if not own:
        pricing = like_proxy(pricing, found)
    left, work = share * (1 - heldout) / (1 - before), pricing.work
    smaller = replace(
        work,
        config=found,
        rows=round(work.rows * share),
        heldout=round(examples * heldout) or work.heldout,
        num_parts=found.corpus.num_parts or 1,
        corpus_bytes=round(work.corpus_bytes * share),
        proxy=work.proxy.scaled(left),
        target=(work.target or work.proxy).scaled(left),
    )
    priced = replace(pricing, work=smaller)
    if found.trains_proxy and len(priced.steps) < 2:
        return None
    told = [
        f"{plural(seeds, 'seed')}, {'enough' if seeds >= MIN_UNITS else 'too few'} for a verdict",
        "the run's own target" if own else "targets of the proxy's size in place of the target",
        f"{'all' if share == 1 else f'{share:.3g}'} of the corpus, about "
        f"{smaller.proxy.examples:,} examples and {smaller.heldout:,} held out",
    ]
    return Pilot(found, comparison_price(priced), told)


def comparison_price(pricing: Pricing) -> Price:
    """Price `compare` as pricing's configuration has it: a proxy per seed, and all targets."""
    config, seeds = pricing.config, len(pricing.config.compare.seeds)
    one = {"baselines": config.compare.selectors, "seeds": [0]}
    single = config.model_copy(update={"evaluation": config.evaluation.model_copy(update=one)})
    corpus = Stage("corpus", _never, settings=("pilot",))
    once, each = list[Price](), list[Price]()
    for stage in stages_of(single, corpus):
        price = pricing.price(Forecast(stage.name, TO_DO, stage.work.workers, stage.work.passes))
        (once if stage.name in ("corpus", "tokens") or not config.trains_proxy else each).append(
            price
        )
    assert config.target is not None
    targets = num_targets(config)
    evaluated = targets + num_untuned(config)
    target = pricing.price(Forecast("targets/one", TO_DO, config.target.workers, "training"))
    workers = config.evaluation.workers or config.trajectories.workers
    evaluation = Forecast("evaluations", TO_DO, workers, "scoring", evaluated // seeds)
    each.append(pricing.price(evaluation))
    found = [(price, 1.0) for price in once] + [(price, float(seeds)) for price in each]
    found.append((target, float(targets)))

    def summed(name: str) -> float | None:
        values = [(getattr(price, name), times) for price, times in found]
        if any(value is None for value, _ in values):
            return None
        return sum(value * times for value, times in values)

    seconds = None
    if summed("seconds") is not None:
        seconds = timing.RUN + sum((p.seconds or 0.0) / p.at_once * times for p, times in found)
    return Price(
        "compare", TO_DO, seconds=seconds,
        cpu_hours=summed("cpu_hours"), gpu_hours=summed("gpu_hours"),
        flops=sum((p.flops or 0.0) * times for p, times in found),
    )  # fmt: skip


def _uses_gpus(config: RunConfig) -> bool:
    found = [config.proxy.workers, config.trajectories.workers]
    found += [config.target.workers] if config.target else []
    return any(workers.gpus_per_worker for workers in found)


def _never(*_: Any) -> Any:
    raise AssertionError
