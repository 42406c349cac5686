"""Training with DeepSpeed ZeRO."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from s2l_ray.config import TrainingConfig
from s2l_ray.models.adapters import is_adapted
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines.shared import (
    adamw,
    rank_and_world,
    save_merged,
    save_weights,
    trained,
)

MASTER = "fp32"  # the master weights, saved beside the moments

STATE = (MASTER, "exp_avg", "exp_avg_sq")


class DeepSpeedEngine:
    """DeepSpeed ZeRO, stages 0 to 3.

    Saves whole tensors, as DDP does: every worker gathers all of them and writes its share.
    """

    def __init__(
        self, loss: LabelLoss, config: TrainingConfig, device: torch.device, world: int
    ) -> None:
        # DeepSpeed takes any GPU that it sees, even one that Ray gave to another worker or to none.
        os.environ["DS_ACCELERATOR"] = device.type
        import deepspeed

        if device.type == "cpu":
            # This operator, for inference only, takes a minute to compile.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

        accumulation = config.global_batch_size // (world * config.micro_batch_size)
        settings: dict[str, Any] = {
            "train_batch_size": config.global_batch_size,
            "train_micro_batch_size_per_gpu": config.micro_batch_size,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": config.max_grad_norm,
            "zero_optimization": {
                "stage": config.zero_stage,
                "stage3_gather_16bit_weights_on_model_save": True,
            },
            "bf16": {"enabled": config.model.dtype == "bfloat16"},
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1 << 30,
        }
        if config.offload_optimizer:
            settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        if config.model.dtype == "bfloat16" and config.zero_stage in (2, 3):
            settings["data_types"] = {"grad_accum_dtype": "fp32"}  # as under DDP
        loss.train()
        self.loss, self.deepspeed = loss, deepspeed.utils
        self.engine, *_ = deepspeed.initialize(
            model=loss, optimizer=adamw(loss, config), config=settings
        )

    def forward(self, *micro_batch: Any) -> Tensor:
        return self.engine(*micro_batch)

    def backward(self, loss: Tensor) -> None:
        # The loss is already divided by the label tokens of the whole batch.
        self.engine.backward(loss, scale_wrt_gas=False)

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def step(self, learning_rate: float) -> Tensor | float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return 0.0 if norm is None else norm  # None at stage 0

    def save_model(self, local: str) -> None:
        if is_adapted(self.loss.model):
            own = dict(trained(self.loss))
            with self._gathered(own.values()):
                if rank_and_world()[0] == 0:
                    save_weights(self.loss, own, local)
            return
        weights = self._state_dict()
        if rank_and_world()[0] == 0:
            save_weights(self.loss, weights, local)

    def save_merged(self, local: str) -> None:
        weights = self._state_dict()
        first = rank_and_world()[0] == 0
        save_merged(self.loss, weights if first else None, local, self._gathered)

    def _state_dict(self) -> dict[str, Tensor]:
        """All weights. Under ZeRO-3 they are copies on the CPU, and on the first worker alone."""
        if self.engine.zero_optimization_stage() == 3:
            return self.engine._zero3_consolidated_16bit_state_dict()
        return self.loss.state_dict()

    def _gathered(self, weights: Iterable[Any]) -> AbstractContextManager[Any]:
        """A context in which weights are whole. All workers must enter it."""
        from deepspeed import zero

        sharded = self.engine.zero_optimization_stage() == 3
        return zero.GatheredParameters(list(weights)) if sharded else nullcontext()

    def save_optimizer(self, local: str) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        tensors = {"step": next(iter(self._base.state.values()))["step"]}
        for number, (name, parameter) in enumerate(trained(self.loss)):
            for key in STATE:
                whole = self._whole(parameter, key)  # a collective operation
                if number % world == rank:
                    tensors[f"{name}/{key}"] = whole.to("cpu", torch.float32).clone()
        save_file(tensors, Path(local, f"optimizer-{rank:05d}.safetensors"))

    def load(self, local: str) -> None:
        parameters = dict(self.loss.named_parameters())
        for file in sorted(Path(local).glob("optimizer-*.safetensors")):
            with safe_open(file, "pt") as tensors:
                self._start_from(tensors.get_tensor("step"))
                for path in set(tensors.keys()) - {"step"}:
                    name, key = path.rsplit("/", 1)
                    self._set(parameters[name], key, tensors.get_tensor(path))

    @property
    def _base(self) -> torch.optim.Optimizer:
        """torch's optimizer: over flat partitions; over the parameters at stage 0 in fp32."""
        return getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)

    def _whole(self, parameter: Any, key: str) -> Tensor:
        if not _is_partitioned(parameter):
            return parameter if key == MASTER else self._base.state[parameter][key]
        if key == MASTER:
            return self.deepspeed.safe_get_full_fp32_param(parameter)
        return self.deepspeed.safe_get_full_optimizer_state(parameter, key)

    def _set(self, parameter: Any, key: str, whole: Tensor) -> None:
        if not _is_partitioned(parameter):
            (parameter.data if key == MASTER else self._base.state[parameter][key]).copy_(whole)
        elif hasattr(parameter, "ds_tensor"):  # stage 3: set the worker's own share, padded
            size = parameter.ds_tensor.numel()
            padded = torch.nn.functional.pad(
                whole.flatten(), (0, size * dist.get_world_size() - whole.numel())
            )
            share = padded.narrow(0, size * dist.get_rank(), size)
            if key == MASTER:
                self.deepspeed.safe_set_local_fp32_param(parameter, share)
            else:
                self.deepspeed.safe_set_local_optimizer_state(parameter, share, key)
        elif key == MASTER:
            self.deepspeed.safe_set_full_fp32_param(parameter, whole)
        else:
            self.deepspeed.safe_set_full_optimizer_state(parameter, whole, key)

    def _start_from(self, step: Tensor) -> None:
        """Create the state that AdamW would create at its first step."""
        if self._base.state:
            return
        zero = self.engine.optimizer
        flat = getattr(zero, "fp32_partitioned_groups_flat", None) or [  # of stage 3
            tensor for group in self._base.param_groups for tensor in group["params"]
        ]
        for tensor in flat:
            self._base.state[tensor] = {
                "step": step.clone(),
                "exp_avg": torch.zeros_like(tensor),
                "exp_avg_sq": torch.zeros_like(tensor),
            }
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # DeepSpeed's own next step
            zero._lazy_init_hp_params_optimizer_state()


def _is_partitioned(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")
