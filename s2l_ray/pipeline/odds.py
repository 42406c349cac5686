"""The odds of a selection before it is paid for: what it must be worth, and what could be seen."""

from __future__ import annotations

import math
from typing import NamedTuple

from s2l_ray.analysis.cost import AgainstRandom
from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, detectable
from s2l_ray.pipeline.forecast import TO_DO, Forecast
from s2l_ray.pipeline.pricing import Price, Pricing
from s2l_ray.pipeline.workload import Workload

# Of the differences in held-out loss between S2L and random, in nats per token: over seeds, and
# over held-out examples. benchmarks/results/comparison*.json have 0.002 to 0.006 over seeds, and
# errors of 0.0020 over about 1,000 examples. Other corpora and targets have other spreads.
SD_OF_SEEDS, SD_OF_EXAMPLES = 0.006, 0.062
SPREAD = "the largest of our comparisons on 28,930 math problems"


class Sensitivity(NamedTuple):
    """How small a difference in held-out loss a number of seeds shows, in nats per token.

    seeds: the config field, and how many. least: None with fewer than two. verdict: whether there
    are enough for one. over_examples: standard error of one difference over the held-out examples.
    """

    field: str
    seeds: int
    least: float | None
    verdict: bool
    over_examples: float | None


def sensitivities(work: Workload) -> list[Sensitivity]:
    """Of `pipeline` and of `compare`."""
    config = work.config
    planned = [
        ("evaluation.seeds", len(config.evaluation.seeds), 1),
        ("compare.seeds", len(config.compare.seeds), config.compare.num_tests),
    ]
    over_examples = SD_OF_EXAMPLES / math.sqrt(work.measured) if work.measured else None
    return [
        Sensitivity(
            field,
            seeds,
            detectable(SD_OF_SEEDS, seeds, alpha=ALPHA / tests) if seeds > 1 else None,
            seeds >= MIN_UNITS,
            over_examples,
        )
        for field, seeds, tests in planned
    ]


def against_random(pricing: Pricing, stages: list[Forecast]) -> AgainstRandom:
    """Price the run's selection, whether or not it exists, against a random subset."""
    config, work = pricing.config, pricing.work
    prices = [pricing.price(stage._replace(state=TO_DO)) for stage in stages]
    selecting = [price for price in prices if not _of_targets(price)]
    training = config.target or config.proxy
    trained = pricing.price(Forecast("targets/one", TO_DO)) if config.target else None
    tokens = (trained and trained.tokens) or (
        training.epochs * work.chosen(config.selection.budget) * work.proxy.tokens_each
    )
    size = pricing.sizes.get("target")
    return AgainstRandom(
        flops=sum(price.flops or 0.0 for price in selecting),
        subset_tokens=tokens,
        adapters=training.lora is not None,
        parameters=size.at_work if size else None,
    )


def _of_targets(price: Price) -> bool:
    return price.stage.partition("/")[0] in ("targets", "evaluations")
