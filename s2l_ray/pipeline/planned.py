"""The arms of a comparison for one pair of seeds: subsets chosen, trainings set."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from s2l_ray.analysis.stability import share_in
from s2l_ray.config import BASELINE, SelectionConfig, SelectorName, TrainingConfig
from s2l_ray.errors import TooFew
from s2l_ray.pipeline import records
from s2l_ray.pipeline.arms import (
    FULL_COMPUTE,
    FULL_EPOCHS,
    IN,
    OF,
    UNTUNED,
    Arm,
    can_match,
    more_random,
)
from s2l_ray.pipeline.mixed import subset_in_shares
from s2l_ray.pipeline.records import Record
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import choose_subset
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest
from s2l_ray.store.views import SelectionView, TokensView
from s2l_ray.training.checkpoints import num_steps

logger = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """Examples to train on: their number, and tokens by the proxy's tokenizer."""

    examples: Manifest
    size: int
    tokens: int


class Planned(NamedTuple):
    """The arms of one pair of seeds, and records of selectors without a subset."""

    arms: list[Arm]
    short: list[Record]


def arms_of_seeds(view: Run, selectors: list[SelectorName], training_seed: int) -> Planned:
    """Choose the subsets of one pair of seeds. view: the run with the selection seed's
    trajectories."""
    found = Planned([], [])
    for budget in view.config.compare.budgets:
        of_budget = _Budget(view, budget, training_seed)
        for match in view.config.compare.match:
            of_budget.add(found, match, selectors)
    return found


class _Budget:
    """What the arms of one budget have in common."""

    def __init__(self, view: Run, budget: Any, training_seed: int) -> None:
        assert view.config.target is not None
        self.view, self.target = view, view.config.target
        self.budget, self.training_seed = budget, training_seed
        self.base = self._subset(BASELINE, budget)
        tokens = TokensView(view.get(view.plan.tokens))
        corpus = view.get(view.plan.corpus)
        self.full = Chosen(corpus, tokens.trainable, tokens.trainable_tokens)
        wanted = {times: round(times * self.base.size) for times in view.config.compare.worth}
        self.amounts = {
            times: self._subset(BASELINE, count)
            for times, count in wanted.items()
            if 0 < count <= self.full.size
        }

    def add(self, found: Planned, match: str, selectors: list[SelectorName]) -> None:
        """Add the arms of one match."""
        compare, base = self.view.config.compare, self.base
        arm = self._arm(match)
        for selector in selectors:
            if selector == BASELINE:
                found.arms.append(arm(selector, *base, 1.0, self.target))
            elif can_match(selector, match):
                self._add(found, match, selector, selector)
        for selector, like in compare.mixed if match == "examples" else ():
            self._add_mixed(found, selector, like)
        share = base.size / self.full.size
        if "compute" in compare.full:
            training = self._equal_compute(self.full)
            found.arms.append(arm(FULL_COMPUTE, *self.full, share, training))
        if "epochs" in compare.full:
            found.arms.append(arm(FULL_EPOCHS, *self.full, share, self.target))
        for times, more in self.amounts.items():
            shared = min(1.0, base.size / more.size)  # smaller budgets nest in larger ones
            found.arms.append(arm(more_random(times), *more, shared, self.target))
        if compare.untuned:
            found.arms.append(arm(UNTUNED, self.full.examples, 0, 0, 0.0, self.target))

    def _arm(self, match: str) -> Callable[..., Arm]:
        return partial(Arm, str(self.budget), match, self.view.config.seed, self.training_seed)

    def _add(
        self,
        found: Planned,
        match: str,
        method: str,
        selector: SelectorName,
        like: SelectorName | None = None,
    ) -> None:
        """Add a selector's arm, or the record that it has too few examples to choose from."""
        base = self.base
        wanted = f"{base.tokens} tokens" if match == "tokens" else base.size
        if selector_named(selector).like:
            like = like or self.view.config.selection.like
        try:
            chosen = self._subset(selector, wanted, like)
        except TooFew as error:
            self._too_few(found, method, match, error)
            return
        shared = share_in(self.view.store, chosen.examples, base.examples)
        training = self._equal_compute(chosen) if match == "compute" else self.target
        found.arms.append(self._arm(match)(method, *chosen, shared, training, like))

    def _add_mixed(self, found: Planned, selector: SelectorName, like: SelectorName) -> None:
        """Add a selector's arm with the source shares of another, at equal examples."""
        if selector == BASELINE:
            self._add(found, "examples", f"random_shares{OF}{like}", "random_shares", like)
            return
        method, base = f"{selector}{IN}{like}", self.base
        try:
            manifest = subset_in_shares(self.view, selector, like, base.size)
        except TooFew as error:
            self._too_few(found, method, "examples", error)
            return
        chosen = _chosen(manifest)
        shared = share_in(self.view.store, manifest, base.examples)
        found.arms.append(self._arm("examples")(method, *chosen, shared, self.target, like))

    def _too_few(self, found: Planned, method: str, match: str, error: TooFew) -> None:
        logger.warning(f"compare: {method} is left out: {error}")
        seeds = self.view.config.seed, self.training_seed
        found.short.append(records.too_few(method, self.budget, match, *seeds, error))

    def _subset(
        self, selector: SelectorName, budget: Any, like: SelectorName | None = None
    ) -> Chosen:
        config, own = self.view.config, self.view.config.selection
        choice = SelectionConfig(
            selector=selector, budget=budget, seed=config.seed, like=like or own.like, race=own.race
        )
        return _chosen(choose_subset(self.view, choice).manifest)

    def _equal_compute(self, chosen: Chosen) -> TrainingConfig:
        """As many steps as see the tokens that the baseline's training sees."""
        base = self.base
        # Per example of each step: the batch size is the same for all.
        seen = num_steps(self.target, base.size) * base.tokens / base.size
        steps = max(1, round(seen * chosen.size / chosen.tokens))
        return self.target.model_copy(update={"max_steps": steps})


def _chosen(subset: Manifest) -> Chosen:
    view = SelectionView(subset)
    return Chosen(subset, view.examples, view.tokens)
