"""What a race takes, and other targets of the proxy's size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from s2l_ray.config import RunConfig
from s2l_ray.pipeline.halves import RACE_PREFIX
from s2l_ray.pipeline.race import race_config

if TYPE_CHECKING:
    from s2l_ray.pipeline.forecast import Forecast
    from s2l_ray.pipeline.pricing import Price, Pricing


def race_price(pricing: Pricing, stage: Forecast) -> Price:
    """Price a stage of a race by its name."""
    choice, work = pricing.config.selection, pricing.work
    if choice.race.model == "proxy":
        pricing = like_proxy(pricing, race_config(pricing.config, choice))
    kind, _, name = stage.stage.removeprefix(RACE_PREFIX).partition("/")
    if kind == "tokens":
        counts = pricing.work.target or work.proxy
        share = work.chosen(choice.budget) / max(1, work.proxy.examples)
        chosen = replace(counts.scaled(share), tokenizer_seconds=0.0)
        pricing = replace(pricing, work=replace(pricing.work, proxy=chosen))
    if kind == "result":
        count = len(choice.race.candidates) * len(choice.race.seeds)
        workers = pricing.config.evaluation.workers or pricing.config.trajectories.workers
        stage = stage._replace(workers=workers, targets=count)
    like = {"dealt": "exports", "result": "evaluations"}.get(kind, kind)
    return pricing.price(stage._replace(stage=f"{like}/{name}" if name else like))._replace(
        stage=stage.stage
    )


def like_proxy(pricing: Pricing, config: RunConfig) -> Pricing:
    """Return the pricing of settings whose target is of the proxy's size."""
    return replace(
        pricing,
        work=replace(pricing.work, config=config, target=pricing.work.proxy),
        sizes=pricing.sizes | {"target": pricing.sizes["proxy"]},
        rates=pricing.rates | {"target": pricing.rates["proxy"]._replace(at_once=1)},
    )
