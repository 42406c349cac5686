"""The sections trajectories, clusters and selection."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.models import WorkersConfig
from s2l_ray.config.values import (
    BASELINE,
    RACE,
    Budget,
    Location,
    Positive,
    Seed,
    SelectorName,
    no_entry_twice,
    with_baseline,
)


class TrajectoriesConfig(Section):
    """Scoring: the loss of every example at every checkpoint."""

    newer = ("tf32", "allow_diverged")

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of the model that scores. Evaluation and answers use it too.",
    )
    tf32: bool = Field(
        False,
        description="Compute float32 matrix products in TF32 on GPUs: faster, with factors rounded "
        "to 10-bit mantissas. No effect on a CPU; untested on GPUs.",
    )
    tokens_per_batch: Positive | None = Field(
        None,
        description="Tokens per forward pass, padding included. Lower it if memory runs out; "
        "`null` means 8192 on a GPU and 2048 on a CPU.",
    )
    while_training: bool = Field(
        False,
        description="Score a checkpoint as soon as it is saved, beside the proxy's training, if "
        "the cluster has room for another actor. The proxies of `cross_fitted` are scored after "
        "their trainings, since neither scores what it is trained on.",
    )
    allow_diverged: bool = Field(
        False,
        description="Select by the losses of a proxy that diverged: with a mean loss at the last "
        "checkpoint above that at the first, or above that of guessing. `false` stops the run "
        "before it clusters.",
    )
    workers: WorkersConfig = Field(
        WorkersConfig(),
        description="Actors that score, `num_workers` of them at the start. `diagnose.gradients` "
        "uses them too; evaluation and answers do unless `evaluation.workers` is set.",
    )
    max_workers: Positive | None = Field(
        None,
        description="Number of actors that the pool may grow to. `null` keeps "
        "`workers.num_workers`.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrajectoriesConfig:
        if self.max_workers is not None and self.max_workers < self.workers.num_workers:
            raise ValueError(
                f"max_workers {self.max_workers} must be at least workers.num_workers "
                f"{self.workers.num_workers}, the size that the pool starts with"
            )
        if self.tf32 and self.dtype != "float32":
            raise ValueError(f"tf32 needs dtype float32, got {self.dtype}: leave out one of them")
        return self

    @property
    def precision(self) -> tuple[str, ...]:
        """What identifies the arithmetic of losses in a fingerprint."""
        return (self.dtype, "tf32") if self.tf32 else (self.dtype,)


class LossesConfig(Section):
    """Losses that something else computed, used instead of a proxy's."""

    path: Location = Field(
        description="Folder of a `LossRecorder`; a `.npy` file [N, T]; a folder with a `.pt` or "
        "`.npy` file of N losses per checkpoint; or Parquet, JSON lines or CSV with the columns "
        "`row` or `example_id`, and `losses` or else `step` and `loss`."
    )
    key: Literal["tokens", "row", "example_id"] | None = Field(
        None,
        description="What joins a loss to an example: its `tokens`, as `prompt` and the tokenizer "
        "of `proxy.model` make them; its `row` in the corpus file, from 0; or its `example_id`. "
        "`null` takes what the files have, in this order.",
    )
    max_missing_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01,
        description="Share of the examples that may lack a loss, from 0 to 1. They cannot be "
        "selected. Above it the run stops.",
    )


class ClustersConfig(Section):
    """k-means over trajectories, with scikit-learn's names."""

    newer = ("init",)

    n_clusters: Positive = Field(
        100, description="Number of clusters; for `s2l_official`, at most so many per source."
    )
    init: Literal["k-means++", "random", "official"] = Field(
        "k-means++",
        description="How k-means begins: `k-means++`; `random` examples; or `official`, all that "
        "the official S2L code does by faiss: at most 256 examples per cluster, random ones to "
        "begin with, 20 iterations. The selectors `s2l_official` and `s2l_official_clusters` are "
        "always `official`. It decides what is chosen; see "
        "[selectors](selectors.md#what-the-clustering-decides).",
    )
    max_iter: Positive = Field(300, description="Maximum number of k-means iterations.")
    tol: Annotated[float, Field(ge=0)] = Field(
        1e-4,
        description="k-means stops once the centers move by less than this, relative to the "
        "variance of the data, or once an iteration lowers the inertia by less than this share.",
    )
    random_state: Seed = Field(42, description="Seed of the initial centers and of samples.")
    num_actors: Positive | None = Field(
        None,
        description="Number of actors, of one CPU each. `null` takes one per CPU of the cluster, "
        "and none for up to 64 MiB of losses.",
    )
    stability: bool = Field(
        True,
        description="Cluster a sample again with another seed and report the adjusted Rand index.",
    )


ExportFormat = Literal[
    "alpaca",
    "prompt_response",
    "messages",
    "trl_messages",
    "trl_prompt_completion",
    "trl_prompt_completion_messages",
    "llamafactory_alpaca",
    "llamafactory_sharegpt",
    "axolotl",
]


class NearDuplicatesConfig(Section):
    """Groups of examples whose texts are nearly the same, and how many of a group may be chosen."""

    max_per_group: Positive | None = Field(
        1,
        description="How many examples of a group any selector may choose: the first by "
        "`example_id`, which is a hash. `null` finds the groups and reports what they take of each "
        "subset, but leaves nothing out.",
    )
    similarity: Annotated[float, Field(ge=0.5, le=1)] = Field(
        0.8,
        description="Jaccard similarity of two texts' shingles, from 0.5 to 1, from which on they "
        "are near-duplicates. MinHash estimates it, with a standard error of 0.035 at 0.8. A group "
        "is what such pairs connect.",
    )
    shingle_words: Positive = Field(
        5,
        description="Words in a shingle. A changed word changes so many shingles, so a lower "
        "number finds copies of short texts too.",
    )


class RaceConfig(Section):
    """The selector `race`: small models, trained on each candidate's subset, decide."""

    candidates: Annotated[list[SelectorName], Field(min_length=2)] = Field(
        [BASELINE, "random_balanced", "s2l", "cross_fitted"],
        description="Selectors whose subsets are trained on. `random` must be one of them: it is "
        "taken unless another one is better beyond noise. `cross_fitted` trains two proxies on "
        "halves of the corpus; without it the candidates share the run's own.",
    )
    seeds: Annotated[list[Seed], Field(min_length=2)] = Field(
        [0, 1, 2],
        description="Seeds of the trainings on each candidate's subset: initial weights of a model "
        "from scratch, and order of the examples.",
    )
    model: Literal["proxy", "target"] = Field(
        "proxy",
        description="What is trained: `proxy`, a model as `proxy` says for as many epochs or steps "
        "as the target; or the run's own `target`.",
    )

    @field_validator("candidates", "seeds")
    @classmethod
    def _once(cls, value: list) -> list:
        return no_entry_twice(value)

    @field_validator("candidates")
    @classmethod
    def _others(cls, value: list) -> list:
        if RACE in value:
            raise ValueError(f"{RACE} cannot be a candidate of itself: leave it out")
        return with_baseline(value)


class SelectionConfig(Section):
    """Which examples are chosen, how many, and in which formats they are written."""

    newer = ("toward", "toward_share", "toward_steps", "near_duplicates", "race")

    selector: SelectorName = Field("s2l", description="Selection method.")
    budget: Budget = Field(
        0.11,
        description="Size of the subset: a number of examples (`1000`), a share (`0.11`, `11%`) or "
        "tokens of the proxy's tokenizer (`2M tokens`). Examples without a label token do not "
        "count.",
    )
    seed: Seed = Field(0, description="Seed of the draws within groups, and of ties.")
    like: SelectorName = Field(
        "s2l",
        description="Selector whose shares of sources `random_shares` copies, and whose number of "
        "tokens `random_tokens` copies.",
    )
    toward: Location | Annotated[list[Location], Field(min_length=1)] | None = Field(
        None,
        description="Files with examples of what the target should be good at, for the selectors "
        "`toward` and `toward_path`: a file, folder, glob or `hf://` dataset, or a list of these, "
        "with the corpus's columns. Rows that the corpus or its held-out share has too are left "
        "out. `null` for the other selectors.",
    )
    toward_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Share of the quotas of `toward` that follows the purpose's examples, from 0 "
        "(even quotas, as `s2l`) to 1 (their shares of the clusters alone).",
    )
    toward_steps: Positive = Field(
        200,
        description="Length of the training of `toward_path` on the purpose's examples, in "
        "optimizer steps; `proxy` has its other settings.",
    )
    near_duplicates: NearDuplicatesConfig | None = Field(
        None,
        description="Search for near-duplicates and cap them, for every selector of the run. "
        'Needs `pip install "s2l-ray[near-duplicates]"`. `null` does not search.',
    )
    race: RaceConfig = Field(
        RaceConfig(), description="What the selector `race` trains to choose another selector."
    )
    export: list[ExportFormat] = Field(
        [],
        description="Formats of other programs to write the subset in, in addition; see "
        "[exports](exports.md).",
    )

    @model_validator(mode="after")
    def _like_another(self) -> SelectionConfig:
        if self.like in ("random_shares", "random_tokens", RACE):
            raise ValueError(f"like: {self.like} itself copies another: set another selector")
        return self

    @property
    def contenders(self) -> list[SelectionConfig]:
        """The selections that this one takes: itself, or those of a race's candidates."""
        if self.selector != RACE:
            return [self]
        return [self.model_copy(update={"selector": name}) for name in self.race.candidates]
