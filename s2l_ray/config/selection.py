"""The sections trajectories, clusters and selection."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.training import WorkersConfig
from s2l_ray.config.values import Budget, Positive, Seed, SelectorName


class TrajectoriesConfig(Section):
    """Scoring: the loss of every example at every checkpoint. dtype, tokens_per_batch and workers
    are those of the evaluation's losses and answers too, workers of diagnose.gradients."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens_per_batch: Positive | None = None  # padded, in a forward pass; 8192 on GPU, 2048 on CPU
    while_training: bool = False  # score a checkpoint as soon as it exists, where there is room
    # Stop once two more checkpoints each leave the clusters at this adjusted Rand index or above.
    stop_when_stable: Annotated[float, Field(gt=0, lt=1)] | None = None
    workers: WorkersConfig = WorkersConfig()  # num_workers: actors at the start
    max_workers: Positive | None = None  # the actor pool may grow to this

    @model_validator(mode="after")
    def _one_after_the_other(self) -> TrajectoriesConfig:
        if self.while_training and self.stop_when_stable is not None:
            raise ValueError("give while_training or stop_when_stable, not both")
        if self.max_workers is not None and self.max_workers < self.workers.num_workers:
            raise ValueError(
                f"max_workers {self.max_workers} is less than workers.num_workers "
                f"{self.workers.num_workers}, with which the pool begins"
            )
        if self.workers.gpus_per_worker > 1:
            raise ValueError(
                f"workers.gpus_per_worker is {self.workers.gpus_per_worker:g}: a scoring actor "
                "uses one GPU, or a share of one; for more GPUs take more workers"
            )
        return self


class ClustersConfig(Section):
    """k-means over trajectories (kmeans.KMeans: scikit-learn's names)."""

    n_clusters: Positive = 100
    max_iter: Positive = 300
    tol: Annotated[float, Field(ge=0)] = 1e-4  # how far centers move, or what the inertia loses
    random_state: Seed = 42
    num_actors: Positive | None = None  # unless set: one per CPU of the cluster
    stability: bool = True  # cluster once more with another seed and report the agreement


class SelectionConfig(Section):
    """Which examples, how many, and how they come out."""

    selector: SelectorName = "s2l"
    budget: Budget = 0.11
    seed: Seed = 0
    # Whose source shares random_shares has, and whose tokens random_tokens.
    like: SelectorName = "s2l"
    export: list[Literal["alpaca", "prompt_response", "messages"]] = []  # JSONL beside Parquet

    @model_validator(mode="after")
    def _like_another(self) -> SelectionConfig:
        if self.like in ("random_shares", "random_tokens"):
            raise ValueError(f"like: {self.like} is itself like another, wanted another selector")
        return self
