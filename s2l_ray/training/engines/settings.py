"""What DeepSpeed is told: our settings, and over them the user's own."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError

from s2l_ray.config import TrainingConfig


def dtype_of(config: TrainingConfig) -> torch.dtype:
    """Return the precision of DeepSpeed's weights."""
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def deepspeed_settings(config: TrainingConfig, world: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration for so many workers."""
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
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
    }
    if config.offload_optimizer:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    if config.dtype == "bfloat16" and config.zero_stage in (2, 3):
        settings["data_types"] = {"grad_accum_dtype": "fp32"}  # as under DDP
    return _merged(settings, config.deepspeed)


def check_deepspeed_settings(config: TrainingConfig) -> None:
    """ValueError if DeepSpeed has no such setting of ZeRO, or takes no such value."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    settings = deepspeed_settings(config, config.workers.num_workers)
    try:
        DeepSpeedZeroConfig(**settings["zero_optimization"])
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"deepspeed.zero_optimization.{name}: DeepSpeed refuses it: {first['msg']}"
        ) from error


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    found = dict(ours)
    for name, value in theirs.items():
        mine = found.get(name)
        if isinstance(mine, dict) and isinstance(value, dict):
            value = _merged(mine, value)
        found[name] = value
    return found
