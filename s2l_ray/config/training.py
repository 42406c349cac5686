"""The sections proxy and target."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.deepspeed import check_deepspeed
from s2l_ray.config.models import LoraConfig, ModelConfig, WorkersConfig
from s2l_ray.config.values import ImportName, Interval, Positive, Share

# What a loop of the user's own can follow, or the stage around it; the other settings are the
# built-in loop's.
FOLLOWED = {
    "model", "epochs", "max_steps", "global_batch_size", "micro_batch_size", "learning_rate",
    "warmup_share", "weight_decay", "max_grad_norm", "gradient_checkpointing", "resume_every",
    "max_failures", "workers", "train",
}  # fmt: skip


class TrainingConfig(Section):
    """One fine-tuning job, with AdamW."""

    newer = (
        "checkpoints", "deepspeed", "keep_checkpoints", "lora", "optimizer", "packing", "train",
    )  # fmt: skip

    model: ModelConfig = Field(description="The model to fine-tune.")
    lora: LoraConfig | None = Field(
        None,
        description="Train LoRA adapters instead of all weights. `null` trains all weights.",
    )
    epochs: Annotated[float, Field(gt=0)] = Field(
        3, description="Passes over the examples; a fraction is allowed."
    )
    max_steps: Positive | None = Field(
        None, description="Number of optimizer steps. `null` trains for `epochs`."
    )
    global_batch_size: Positive = Field(
        128, description="Examples per optimizer step, over all workers."
    )
    micro_batch_size: Positive = Field(
        8,
        description="Examples per forward and backward pass of a worker. Lower it if memory runs "
        "out.",
    )
    packing: bool = Field(
        False,
        description="Pack the examples of a worker into rows of up to `micro_batch_size` × "
        "`prompt.max_length` tokens, instead of padding `micro_batch_size` of them. Attention "
        "stays within each example, and losses are the same but for rounding. It pays with flash "
        "attention; untested on GPUs.",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        2e-5, description="Learning rate after warm-up; half a cosine then lowers it to 0."
    )
    warmup_share: Share = Field(
        0.03,
        description="Share of the steps, from 0 to below 1, over which the learning rate rises.",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's weight decay.")
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw",
        description="`adamw_8bit` is AdamW by bitsandbytes with moments in 8 bits: 2 bytes per "
        'trained weight instead of 8. Needs `pip install "s2l-ray[qlora]"` and no `zero_stage`. '
        "Tested on CPUs, untested on GPUs.",
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Norm that larger gradients are clipped to."
    )
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None,
        description="DeepSpeed's ZeRO stage, from 0 to 3. `null` trains with DDP, without "
        "DeepSpeed.",
    )
    offload_optimizer: bool = Field(
        False,
        description="Keep the optimizer state in CPU memory: slow, and untested on GPUs. Needs "
        "`zero_stage` 1, 2 or 3.",
    )
    deepspeed: dict[str, Any] = Field(
        {},
        description="More settings of DeepSpeed, by its own names, such as `zero_optimization: "
        "{stage3_prefetch_bucket_size: 100000000}`; what another field sets is refused. Needs "
        "`zero_stage`.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute activations again in the backward pass, which saves memory and costs "
        "time.",
    )
    num_checkpoints: Positive | None = Field(
        None,
        description="Number of checkpoints to keep, evenly spaced, the last one at the end. "
        "`null` follows `checkpoint_every`; with neither, only the last step is kept.",
    )
    checkpoint_every: Positive | None = Field(
        None,
        description="Steps between checkpoints; the last step is kept too. `null` follows "
        "`num_checkpoints`.",
    )
    keep_checkpoints: Positive | None = Field(
        None,
        description="Number of checkpoints that a training leaves, the last ones; those before "
        "them are removed as it goes. The proxy's are all needed for the losses, and removed when "
        "these are finished; if they are needed again (for another `trajectories.dtype` or a "
        "selector with signals of its own), the proxy is trained again. `null` keeps all.",
    )
    checkpoints: Annotated[list[str], Field(min_length=2)] | None = Field(
        None,
        description="Proxy only: checkpoints of a finished training, in order, which are scored "
        "instead of training. Each is a folder in Hugging Face format, or a revision of "
        "`model.name` on the hub. `null` trains.",
    )
    resume_every: Interval = Field(
        500,
        description="Steps between resume points, from which a stopped training continues, or the "
        "time between them, such as `10 min` (also `s` and `h`). Every checkpoint is one too.",
    )
    max_failures: Annotated[int, Field(ge=-1)] = Field(
        3,
        description="Number of failures in a row, with no resume point between them, that training "
        "survives. `-1` sets no limit.",
    )
    workers: WorkersConfig = Field(
        WorkersConfig(), description="Workers that train, each with an equal share of the batch."
    )
    min_workers: Positive | None = Field(
        None,
        description="Number of workers that training goes on with if the cluster has had no room "
        "for `workers.num_workers` for five minutes. It takes the largest number that fits and "
        "divides the batch, and tries the full number at the next restart. `null` waits for "
        "`workers.num_workers`.",
    )
    max_workers: Positive | None = Field(
        None,
        description="DDP only: number of workers that training grows to if the cluster has room. "
        "`null` keeps `workers.num_workers`.",
    )
    train: ImportName | None = Field(
        None,
        description="Target only: training function of your own for Ray Train, as "
        "`module:function`, in place of the built-in loop (docs/own-loop.md). The module must be "
        "importable where the run starts and need only installed packages; nodes need no copy of "
        "it. Its source counts in the target's fingerprint. `null` trains with the built-in loop.",
    )

    def fits_a_task(self, size: int) -> bool:
        """Return whether a training of so many workers needs no more than one process on a CPU.
        DeepSpeed can be initialised only once in a process, so with it a training has its own."""
        return (
            size == 1
            and self.max_workers is None
            and self.zero_stage is None
            and not self.workers.gpus_per_worker
            and not self.workers.accelerator_type
        )

    @property
    def drops_checkpoints(self) -> bool:
        """Whether the training may leave fewer checkpoints than it keeps as it goes."""
        if self.keep_checkpoints is None:
            return False
        return self.checkpoint_every is not None or self.keep_checkpoints < (
            self.num_checkpoints or 1
        )

    def sizes(self) -> list[int]:
        """List the numbers of workers that training may have, most first."""
        most = self.workers.num_workers
        settings = self.model_dump() | {"min_workers": None, "max_workers": None}
        found = [most]
        for count in range(most - 1, (self.min_workers or most) - 1, -1):
            with suppress(ValueError):
                settings["workers"]["num_workers"] = count
                type(self).model_validate(settings)
                found.append(count)
        return found

    @property
    def dtype(self) -> str:
        """The precision of training: float32 or bfloat16."""
        if self.model.dtype != "auto":
            return self.model.dtype
        return "bfloat16" if self.workers.gpus_per_worker else "float32"

    def settings(self) -> dict[str, Any]:
        """Return what a fingerprint has of it: `auto` is told as the precision that it means."""
        found = super().settings()
        return found | {"model": found["model"] | {"dtype": self.dtype}}

    @model_validator(mode="after")
    def _fits(self) -> TrainingConfig:
        if self.train is not None:
            for name, field in type(self).model_fields.items():
                if name not in FOLLOWED and getattr(self, name) != field.default:
                    raise ValueError(
                        f"{name} is a setting of the built-in loop: leave it out, or leave out "
                        f"train ({self.train})"
                    )
        if self.min_workers is not None and self.min_workers > self.workers.num_workers:
            raise ValueError(
                f"min_workers {self.min_workers} must not be above workers.num_workers "
                f"{self.workers.num_workers}"
            )
        if self.max_workers is not None:
            if self.zero_stage is not None:
                raise ValueError("max_workers needs DDP: leave out zero_stage, or max_workers")
            if not self.workers.num_workers <= self.max_workers <= self.global_batch_size:
                raise ValueError(
                    f"max_workers {self.max_workers} must be between workers.num_workers "
                    f"{self.workers.num_workers} and global_batch_size {self.global_batch_size}"
                )
        if self.num_checkpoints is not None and self.checkpoint_every is not None:
            raise ValueError("set num_checkpoints or checkpoint_every, not both")
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
                "workers.gpus_per_worker: expected 0 or 1 for a training worker, got "
                f"{self.workers.gpus_per_worker:g}; for more GPUs raise workers.num_workers"
            )
        if self.zero_stage == 0 and self.dtype == "bfloat16":
            raise ValueError(  # DeepSpeed's optimizer then keeps no fp32 master weights
                "zero_stage 0 needs dtype float32; for bfloat16 leave zero_stage out (DDP) or set "
                "1, 2 or 3"
            )
        if self.zero_stage == 1 and self.dtype == "bfloat16" and share > self.micro_batch_size:
            raise ValueError(  # stages 2 and 3, and DDP, sum them in fp32
                f"zero_stage 1 would sum the gradients of {share // self.micro_batch_size} "
                f"micro-batches in bfloat16: raise micro_batch_size to {share}, or set 2 or 3"
            )
        if self.optimizer == "adamw_8bit" and self.zero_stage is not None:
            raise ValueError(
                "optimizer adamw_8bit needs DDP: leave out zero_stage, or set optimizer: adamw"
            )
        if self.deepspeed and self.zero_stage is None:
            raise ValueError("deepspeed needs zero_stage: set it to 0, 1, 2 or 3")
        check_deepspeed(self.deepspeed, offload_optimizer=self.offload_optimizer)
        if self.offload_optimizer and self.zero_stage in (None, 0):
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        if self.lora is not None:
            self._check_lora(self.lora)
        return self

    def _check_lora(self, lora: LoraConfig) -> None:
        if self.model.architecture is not None:
            raise ValueError(
                "lora needs a pretrained model: set model.name instead of model.architecture, or "
                "leave out lora"
            )
        if lora.quantize is not None and lora.merge:
            raise ValueError(
                "lora.merge cannot add adapters to the 4-bit weights of lora.quantize: set "
                "merge: false, and merge the last checkpoint into the full-precision model with "
                "peft's merge_and_unload"
            )
        if lora.quantize is not None and self.zero_stage == 3:
            raise ValueError(
                "lora.quantize: DeepSpeed cannot partition 4-bit weights: set zero_stage 1 or 2, "
                "or leave zero_stage out (DDP)"
            )
