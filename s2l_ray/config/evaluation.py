"""The sections evaluation, compare, diagnose and report."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.models import ModelConfig, WorkersConfig
from s2l_ray.config.values import (
    BASELINE,
    RACE,
    Budget,
    FileName,
    Location,
    Positive,
    Seed,
    SelectorName,
    no_entry_twice,
    shown,
    with_baseline,
)

ENOUGH = 6  # seeds for a verdict: analysis.statistics.MIN_UNITS


class EvaluationConfig(Section):
    """What targets are evaluated on, and what `pipeline` compares the selection with."""

    newer = (
        "workers", "answer_with", "few_shot", "few_shot_examples", "texts", "bert_score_model",
        "bert_score_layer",
    )  # fmt: skip

    files: dict[FileName, Location] = Field(
        {},
        description="Held-out examples by name, such as `{exam: exam.jsonl}`: files with the "
        "corpus's columns. Rows that the corpus has too are left out.",
    )
    split: str | None = Field(
        None,
        description="Split to read for `files`, `answers`, `few_shot` and `texts`, as "
        "`corpus.split`. `null` means the split that the path names, or `test`.",
    )
    answer_marker: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Text before the answer in a response, such as `The answer is`. Sets a second "
        "loss, of what follows its last occurrence; `null` evaluates whole responses only.",
    )
    answers: dict[FileName, Location] = Field(
        {},
        description="Question sets for exact match, by name: files with the columns `question` and "
        "`answer`. Questions that the corpus asks too are left out.",
    )
    answers_at_most: Positive | None = Field(
        None,
        description="Maximum number of questions asked per set, and of texts generated per set of "
        "`texts`: a random sample that is the same for every target. `null` takes all.",
    )
    answer_with: Literal["text", "chain", "program", "program_or_text"] = Field(
        "text",
        description="How questions are put. `text` asks the question alone; `chain` adds \"Let's "
        'think step by step." (chain of thought). `program` adds "Let\'s write a program." and '
        "runs the Python program of the answer in a sandbox; its last printed line is the answer. "
        "`program_or_text` does so too, and asks again with `text` if the program gives none. "
        "Programs need Linux and the right to make namespaces.",
    )
    few_shot: Location | None = Field(
        None,
        description="File with answered examples that precede each question as earlier turns: "
        "columns `question` and `answer`, in this order. `null` asks without examples.",
    )
    few_shot_examples: Positive | None = Field(
        None, description="Number of rows of `few_shot` to use, from the first. `null` uses all."
    )
    texts: dict[FileName, Location] = Field(
        {},
        description="Sets of examples for text metrics, by name: files with the corpus's columns. "
        "The target answers each prompt, and BLEU and ROUGE-L compare its text with the response. "
        "Rows that the corpus has too are left out.",
    )
    bert_score_model: Location | None = Field(
        None,
        description="Folder of the model that BERTScore compares texts with, in Hugging Face "
        "format, on every node. `null` leaves BERTScore out.",
    )
    bert_score_layer: Positive | None = Field(
        None,
        description="Layer of `bert_score_model` whose output is compared, counted from 1, such as "
        "17 for `roberta-large`.",
    )
    max_new_tokens: Positive = Field(
        256, description="Maximum length of a generated answer, in tokens."
    )
    workers: WorkersConfig | None = Field(
        None,
        description="Actors that evaluate targets and let them answer. `null` means as "
        "`trajectories.workers`. For a target that one GPU cannot hold, raise `gpus_per_worker`.",
    )
    baselines: list[SelectorName] = Field(
        [BASELINE],
        description="Selectors that `pipeline` compares the run's own with. `random` must be one "
        "of them.",
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        [0, 1],
        description="Seeds of the comparison in `pipeline`. Each gives every selector a subset and "
        "a target; all share the run's proxy.",
    )
    targets_at_once: Positive = Field(
        1,
        description="Number of targets trained at the same time, each with workers of its own.",
    )

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
            raise ValueError("files: the name 'heldout' is reserved for corpus.heldout_share")
        for name in self.answers:
            if name in self.files or name == "heldout":
                raise ValueError(f"answers: the name {name!r} is taken by held-out examples")
        for name in self.texts:
            if name in (*self.files, *self.answers, "heldout"):
                raise ValueError(f"texts: the name {name!r} is taken by files or answers")
        return self

    @model_validator(mode="after")
    def _together(self) -> EvaluationConfig:
        if self.few_shot_examples is not None and self.few_shot is None:
            raise ValueError("few_shot_examples: expected the file few_shot too, got null")
        if (self.bert_score_model is None) != (self.bert_score_layer is None):
            raise ValueError(
                "bert_score_model, bert_score_layer: expected both or neither, got "
                f"{shown(self.bert_score_model)} and {self.bert_score_layer}"
            )
        return self


class CompareConfig(Section):
    """What `compare` trains and evaluates: a target for each selector, budget and seed."""

    newer = ("primary", "equivalent", "worth", "untuned", "shares")

    selectors: list[SelectorName] = Field(
        ["s2l", "loss_kmeans", "random_balanced", "random"],
        description="Selectors to compare. `random` must be one of them: the others are compared "
        "with it.",
    )
    budgets: Annotated[list[Budget], Field(min_length=1)] = Field(
        [0.11], description="Budgets to compare at, each in a form that `selection.budget` takes."
    )
    match: Annotated[list[Literal["examples", "tokens", "compute"]], Field(min_length=1)] = Field(
        ["examples"],
        description="What a selector's subset has in common with `random`'s: the number of "
        "`examples`, the `tokens` of the subset, or `compute` (the tokens trained on).",
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        [0, 1, 2, 3, 4, 5],
        description="Seeds, each with a proxy, clusters and subsets of its own. A verdict needs "
        "six.",
    )
    also: list[SelectorName] = Field(
        [], description="Selectors to compare with the first `also_seeds` seeds only."
    )
    also_seeds: Positive = Field(2, description="Number of seeds that the selectors in `also` get.")
    trainings: Positive = Field(
        1,
        description="Targets trained on each subset, each with its own data order and, from "
        "scratch, its own initial weights.",
    )
    full: list[Literal["compute", "epochs"]] = Field(
        ["compute"],
        description="Trainings on the whole corpus to compare with: for as much `compute` as a "
        "subset takes, or for as many `epochs`.",
    )
    untuned: bool = Field(
        True, description="Evaluate the target before any training, too. Trains nothing."
    )
    worth: list[Annotated[float, Field(gt=0)]] = Field(
        [0.5, 2.0],
        description="Amounts of random data, in units of a budget, to train on as well. With them "
        "a selection is told in random data: worth ×1.3 as much. Amounts that the corpus is too "
        "small for are left out. `[]` trains none.",
    )
    shares: dict[SelectorName, Annotated[list[SelectorName], Field(min_length=1)]] = Field(
        {},
        description="Selectors to draw with the source shares of others as well: "
        "`{random: [s2l], s2l: [random]}` is random with S2L's mix of sources, and S2L with "
        "random's. Controls for what the mix does.",
    )
    primary: Annotated[str, Field(pattern=r"^[a-z]\w*(/.+)?$")] | None = Field(
        None,
        description="The measure that verdicts are on, such as `loss`, `macro_100`, `files/NAME`, "
        "`exact_match/NAME` or `by_source/NAME`. `null` takes the first that there is: the mean "
        "over `evaluation.answers`, the mean over `evaluation.files`, the mean over sources with "
        "at least 100 held-out examples, the loss. All other measures are exploratory.",
    )
    equivalent: Annotated[float, Field(gt=0)] | str | None = Field(
        None,
        description="Difference in the primary measure within which a selector counts as equal to "
        'random: nats per token (or a share of answers), or such as `"1%"` of random\'s value. '
        "`null` prints the smallest difference that can be ruled out instead.",
    )
    difference: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Difference in the primary measure to plan for, in its unit (nats per token, "
        "or a share of answers): the job prints how many seeds would show it. `null` prints none.",
    )

    def selectors_with(self, number: int) -> list[SelectorName]:
        """Return the selectors to compare with the seed at index `number` of seeds."""
        return self.selectors + (self.also if number < self.also_seeds else [])

    @property
    def num_tests(self) -> int:
        """How many verdicts there are to correct for, if all selectors get enough seeds."""
        judged = len(self.also) if self.also_seeds >= ENOUGH else 0
        methods = (len(self.selectors) - 1 + judged) * len(self.match)
        methods += len(self.mixed) * ("examples" in self.match)
        return max(1, methods * len(self.budgets))

    @property
    def mixed(self) -> list[tuple[SelectorName, SelectorName]]:
        """The pairs of `shares`: a selector, and the one whose source shares it gets."""
        return [(name, like) for name, likes in self.shares.items() for like in likes]

    @field_validator("shares")
    @classmethod
    def _two_selectors(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, likes in value.items():
            no_entry_twice(likes)
            for odd in {"random_shares", "random_tokens", RACE} & {name, *likes}:
                raise ValueError(f"{odd} copies another selection itself: name that one")
            if name in likes:
                raise ValueError(f"{name}: expected the shares of another selector, got its own")
        return value

    @field_validator("equivalent")
    @classmethod
    def _percent(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, str) and not re.fullmatch(r"(?=.*[1-9])\d+(\.\d+)?%", value):
            raise ValueError(f"expected a number above 0, or such as '1%', got {shown(value)}")
        return value

    @field_validator("worth")
    @classmethod
    def _other_amounts(cls, value: list[float]) -> list[float]:
        if 1 in value:
            raise ValueError("1 is the budget itself, which is trained on anyway: leave it out")
        return sorted(value)

    @field_validator("selectors", "also", "budgets", "match", "seeds", "full", "worth")
    @classmethod
    def _once(cls, value: list) -> list:
        return no_entry_twice(value)

    @model_validator(mode="after")
    def _comparable(self) -> CompareConfig:
        if both := sorted(set(self.selectors) & set(self.also)):
            raise ValueError(f"also: {', '.join(both)} is already in selectors")
        if "random_tokens" in self.selectors + self.also and "examples" not in self.match:
            raise ValueError(
                f"match: random_tokens needs examples among them, got {self.match}: it takes as "
                "many tokens as another selection of equal examples"
            )
        return self

    @field_validator("selectors")
    @classmethod
    def _with_baseline(cls, value: list) -> list:
        return with_baseline(value)


class DiagnoseConfig(Section):
    """What `diagnose` varies to tell how stable the run's S2L selection is."""

    seeds: list[Seed] | None = Field(
        None,
        description="Seeds of other proxies to compare with. `null` takes the two after the run's "
        "own seed.",
    )
    checkpoints: list[Annotated[int, Field(ge=2)]] = Field(
        [3, 6],
        description="Numbers of checkpoints to cluster by instead of all, evenly spaced among "
        "those scored.",
    )
    n_clusters: list[Positive] | None = Field(
        None,
        description="Other numbers of clusters. `null` takes half and twice `clusters.n_clusters`.",
    )
    proxies: dict[FileName, ModelConfig] = Field(
        {}, description="Other proxy models by name, trained with the proxy's settings."
    )
    gradients: bool = Field(
        False,
        description="Measure how alike a target's gradients are within clusters and between "
        "subsets and corpus. Needs a small target: the driver holds 8 bytes per weight and subset, "
        "with 5 subsets per selector, or 10 for one that draws from clusters.",
    )

    @field_validator("seeds", "checkpoints", "n_clusters")
    @classmethod
    def _once(cls, value: list | None) -> list | None:
        return value and no_entry_twice(value)


class ReportConfig(Section):
    """What the report shows."""

    examples: bool = Field(True, description="Show texts of the corpus in the report.")
    examples_per_cluster: Annotated[int, Field(ge=1, le=50)] = Field(
        4, description="Number of examples shown per cluster, from 1 to 50."
    )
