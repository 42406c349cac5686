"""The sections proxy and target, and what they consist of: model, workers, training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.values import Positive, Share


class ModelConfig(Section):
    """A causal language model: a hub name or folder, or an architecture to start from scratch."""

    name: str | None = None  # hub name or folder in Hugging Face format
    revision: str | None = None
    architecture: dict[str, Any] | None = None  # from scratch: model_type and its config's fields
    tokenizer_vocab: Annotated[int, Field(ge=300)] | None = None  # train a BPE on the corpus
    tokenizer: str | None = None  # from scratch with an existing tokenizer: hub name or folder
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _one_way(self) -> ModelConfig:
        if (self.name is None) == (self.architecture is None):
            raise ValueError("give either name (pretrained) or architecture (from scratch)")
        if self.architecture is not None:
            if "model_type" not in self.architecture:
                raise ValueError("architecture lacks model_type, such as gpt_neox or llama")
            if (self.tokenizer is None) == (self.tokenizer_vocab is None):
                raise ValueError("a model from scratch needs tokenizer or else tokenizer_vocab")
        elif self.tokenizer is not None or self.tokenizer_vocab is not None:
            raise ValueError("a pretrained model brings its own tokenizer")
        return self


class WorkersConfig(Section):
    """Ray resources of a stage: how many workers or actors, and what each asks for."""

    num_workers: Positive = 1
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    accelerator_type: str | None = None


class TrainingConfig(Section):
    """One fine-tuning job. `zero_stage: null` is DDP, 0 to 3 is DeepSpeed ZeRO."""

    model: ModelConfig
    epochs: Annotated[float, Field(gt=0)] = 3
    max_steps: Positive | None = None  # instead of epochs
    global_batch_size: Positive = 128
    micro_batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    warmup_share: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    offload_optimizer: bool = False  # DeepSpeed: optimizer state to CPU memory; slow, untried
    gradient_checkpointing: bool = False
    num_checkpoints: Positive | None = None  # evenly spaced, the last at the end
    checkpoint_every: Positive | None = None  # or every n steps
    resume_every: Positive = 500  # steps between resume points beside the checkpoints
    max_failures: Annotated[int, Field(ge=-1)] = 3  # in a row, without a new resume point; -1: any
    workers: WorkersConfig = WorkersConfig()
    max_workers: Positive | None = None  # DDP takes up to so many where the cluster has them

    @model_validator(mode="after")
    def _fits(self) -> TrainingConfig:
        if self.max_workers is not None:
            if self.zero_stage is not None:
                raise ValueError("max_workers goes with DDP; DeepSpeed keeps its number of workers")
            if not self.workers.num_workers <= self.max_workers <= self.global_batch_size:
                raise ValueError(
                    f"max_workers {self.max_workers} must be between workers.num_workers "
                    f"{self.workers.num_workers} and global_batch_size {self.global_batch_size}"
                )
        if self.num_checkpoints is not None and self.checkpoint_every is not None:
            raise ValueError("give num_checkpoints or checkpoint_every, not both")
        share, rest = divmod(self.global_batch_size, self.workers.num_workers)
        if rest:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} must be a multiple of "
                f"workers.num_workers {self.workers.num_workers}"
            )
        if share % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size / num_workers = {share} must be a multiple of "
                f"micro_batch_size {self.micro_batch_size}"
            )
        if self.workers.gpus_per_worker not in (0, 1):
            raise ValueError(
                f"workers.gpus_per_worker is {self.workers.gpus_per_worker:g}: a worker of a "
                "training has one GPU or none; for more GPUs take more workers"
            )
        if self.zero_stage == 0 and self.model.dtype == "bfloat16":
            raise ValueError(  # there DeepSpeed's optimizer is another, without fp32 master weights
                "zero_stage 0 goes with dtype float32; for bfloat16 leave zero_stage out (DDP), or "
                "set 1, 2 or 3"
            )
        if (
            self.zero_stage == 1
            and self.model.dtype == "bfloat16"
            and share > self.micro_batch_size
        ):
            raise ValueError(  # stages 2 and 3 sum them in fp32, as DDP does
                f"zero_stage 1 would sum the gradients of {share // self.micro_batch_size} "
                f"micro-batches in bfloat16: raise micro_batch_size to {share}, or set 2 or 3"
            )
        if self.offload_optimizer and self.zero_stage in (None, 0):
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self
