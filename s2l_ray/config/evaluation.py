"""The sections evaluation, compare, diagnose and report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.training import ModelConfig
from s2l_ray.config.values import (
    BASELINE,
    Budget,
    FileName,
    Location,
    Positive,
    Seed,
    SelectorName,
    no_entry_twice,
    with_baseline,
)


class EvaluationConfig(Section):
    """Held-out response loss, exact match of answers, and the comparison that tells whether
    selection helped."""

    # name -> a file with the corpus's columns (but the source), beside the held-out share
    files: dict[FileName, Location] = {}
    split: str = "test"  # of files and answers: of hf://, and of saved datasets of several splits
    answer_marker: Annotated[str, Field(min_length=1)] | None = None  # loss after it alone, as well
    answers: dict[FileName, Location] = {}  # name -> a file of questions with answers: exact match
    answers_at_most: Positive | None = None  # questions of each set
    max_new_tokens: Positive = 256  # of a generated answer
    baselines: list[SelectorName] = [BASELINE]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1]
    targets_at_once: Positive = 1  # trained side by side, each with its workers; more wait

    @field_validator("seeds", "baselines")
    @classmethod
    def _once(cls, value: list) -> list:
        return no_entry_twice(value)

    @field_validator("baselines")
    @classmethod
    def _with_baseline(cls, value: list) -> list:
        return with_baseline(value)

    @model_validator(mode="after")
    def _names_apart(self) -> EvaluationConfig:
        if "heldout" in self.files:
            raise ValueError("files: the name 'heldout' is that of corpus.heldout_share")
        for name in self.answers:
            if name in self.files or name == "heldout":
                raise ValueError(f"answers: the name {name!r} is that of held-out examples")
        return self


class CompareConfig(Section):
    """jobs/compare.py: selectors x budgets x seeds, each a target trained and evaluated."""

    selectors: list[SelectorName] = ["s2l", "random_balanced", "loss_strata", "random"]
    budgets: Annotated[list[Budget], Field(min_length=1)] = [0.11]
    # What is equal to random's at a budget: examples, their tokens, or the tokens trained on.
    match: Annotated[list[Literal["examples", "tokens", "compute"]], Field(min_length=1)] = [
        "examples"
    ]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0, 1, 2, 3, 4]  # a proxy each
    also: list[SelectorName] = []  # compared with the first also_seeds seeds alone
    also_seeds: Positive = 2
    # Targets on each subset, each with initial weights (from scratch) and an order of its own.
    trainings: Positive = 1
    full: list[Literal["compute", "epochs"]] = ["compute"]  # the whole corpus beside the subsets
    difference: Annotated[float, Field(gt=0)] | None = None  # nats: how many runs would show it?

    def selectors_with(self, number: int) -> list[SelectorName]:
        """Those compared with the seed at the place `number` of seeds, from 0."""
        return self.selectors + (self.also if number < self.also_seeds else [])

    @field_validator("selectors", "also", "budgets", "match", "seeds", "full")
    @classmethod
    def _once(cls, value: list) -> list:
        return no_entry_twice(value)

    @model_validator(mode="after")
    def _comparable(self) -> CompareConfig:
        if both := sorted(set(self.selectors) & set(self.also)):
            raise ValueError(f"also: {', '.join(both)} is among selectors already")
        if "random_tokens" in self.selectors + self.also and "examples" not in self.match:
            raise ValueError(
                f"found random_tokens, but match is {self.match}: it has the tokens that another "
                "selection has at equal examples, and is compared there; add examples to match"
            )
        return self

    @field_validator("selectors")
    @classmethod
    def _with_baseline(cls, value: list) -> list:
        return with_baseline(value)


class DiagnoseConfig(Section):
    """jobs/diagnose.py: the run's S2L selection beside those of variants of the run."""

    seeds: list[Seed] | None = None  # of other proxies; unless set: the two after the run's own
    checkpoints: list[Annotated[int, Field(ge=2)]] = [3, 6]  # evenly spaced among those scored
    n_clusters: list[Positive] | None = None  # unless set: half as many and twice as many
    proxies: dict[FileName, ModelConfig] = {}  # others, trained with the proxy's settings
    # Of a target, on clusters and on the baselines' subsets; for small targets: the driver holds 8
    # bytes a weight for each subset, 5 of a selector, 10 of one that draws from clusters.
    gradients: bool = False

    @field_validator("seeds", "checkpoints", "n_clusters")
    @classmethod
    def _once(cls, value: list | None) -> list | None:
        return value and no_entry_twice(value)


class ReportConfig(Section):
    examples: bool = True  # show corpus text in the report
    examples_per_cluster: Annotated[int, Field(ge=1, le=50)] = 4
