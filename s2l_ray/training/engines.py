"""Engines share gradients between workers and update weights: torch's DDP, or DeepSpeed ZeRO.

Both have one interface. For each micro-batch `with micro_batch(last): forward, backward`; after the
last one `step(learning_rate)`, which returns the gradient's norm. save_model, save_optimizer and
load serve resume points, which any number of workers can load. Both engines use torch's AdamW over
fp32 master weights and clip the gradient's norm. B examples, L tokens.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from s2l_ray.config import TrainingConfig
from s2l_ray.models.loss import LabelLoss

MASTER = "fp32"  # the master weights, saved beside the moments

STATE = (MASTER, "exp_avg", "exp_avg_sq")


class DataParallelEngine:
    """torch's DistributedDataParallel, or the bare module if there is one worker."""

    def __init__(
        self, loss: LabelLoss, config: TrainingConfig, device: torch.device, world: int
    ) -> None:
        self.loss = loss.to(device)
        self.loss.train()
        self.max_grad_norm = config.max_grad_norm
        self.optimizer = _adamw(self.loss, config)
        self.module: Any = self.loss
        if world > 1:
            self.module = DistributedDataParallel(
                self.loss, device_ids=[device] if device.type == "cuda" else None
            )
        self.autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=config.model.dtype == "bfloat16"
        )

    def forward(self, input_ids_BL: Tensor, loss_mask_BL: Tensor) -> Tensor:
        with self.autocast:
            return self.module(input_ids_BL, loss_mask_BL)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        alone = last or self.module is self.loss
        return nullcontext() if alone else self.module.no_sync()  # share gradients once per step

    def step(self, learning_rate: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.loss.parameters(), self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def save_model(self, local: str) -> None:
        if rank_and_world()[0] == 0:
            _save_weights(self.loss, self.loss.state_dict(), local)

    def save_optimizer(self, local: str) -> None:
        if rank_and_world()[0] != 0:
            return
        tensors = {
            f"{name}/{key}": value.contiguous()
            for name, parameter in _trained(self.loss)
            for key, value in self.optimizer.state[parameter].items()
        }
        save_file(tensors, Path(local, "optimizer.safetensors"))

    def load(self, local: str) -> None:
        tensors = load_file(Path(local, "optimizer.safetensors"))
        parameters = dict(self.loss.named_parameters())
        for path, value in tensors.items():
            name, key = path.rsplit("/", 1)
            parameter = parameters[name]
            place = value if key == "step" else value.to(parameter.device)
            self.optimizer.state[parameter][key] = place


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
            model=loss, optimizer=_adamw(loss, config), config=settings
        )

    def forward(self, input_ids_BL: Tensor, loss_mask_BL: Tensor) -> Tensor:
        return self.engine(input_ids_BL, loss_mask_BL)

    def backward(self, loss: Tensor) -> None:
        # The loss is already divided by the label tokens of the whole batch.
        self.engine.backward(loss, scale_wrt_gas=False)

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def step(self, learning_rate: float) -> float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        return float(self.engine.get_global_grad_norm() or 0.0)  # None at stage 0

    def save_model(self, local: str) -> None:
        sharded = self.engine.zero_optimization_stage() == 3
        weights = (
            self.engine._zero3_consolidated_16bit_state_dict()
            if sharded
            else self.loss.state_dict()
        )
        if rank_and_world()[0] == 0:
            _save_weights(self.loss, weights, local)

    def save_optimizer(self, local: str) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        tensors = {"step": next(iter(self._base.state.values()))["step"]}
        for number, (name, parameter) in enumerate(_trained(self.loss)):
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


Engine = DataParallelEngine | DeepSpeedEngine


def make_engine(
    loss: LabelLoss, config: TrainingConfig, device: torch.device, world: int
) -> Engine:
    """DDP, or DeepSpeed if zero_stage is set. Moves the model to the device."""
    if config.zero_stage is None:
        return DataParallelEngine(loss, config, device, world)
    return DeepSpeedEngine(loss, config, device, world)


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _is_partitioned(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _save_weights(loss: LabelLoss, weights: dict[str, Tensor], local: str) -> None:
    """Save a folder in Hugging Face format.

    Copies the weights to the CPU first: under ZeRO 1 and 2 all weights share a buffer, and
    save_pretrained would copy each of them on the GPU, which may be full.
    """
    on_cpu: dict[tuple[Any, ...], Tensor] = {}  # one entry for tied weights
    for tensor in weights.values():
        if (key := _place_of(tensor)) not in on_cpu:
            on_cpu[key] = tensor.detach().to("cpu")
    state = {name.removeprefix("model."): on_cpu[_place_of(t)] for name, t in weights.items()}
    loss.model.save_pretrained(local, state_dict=state)


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _trained(loss: LabelLoss) -> list[tuple[str, Any]]:
    return [(name, weights) for name, weights in loss.named_parameters() if weights.requires_grad]


def _adamw(loss: LabelLoss, config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [weights for _, weights in _trained(loss)],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
