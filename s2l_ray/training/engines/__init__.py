"""Engines share gradients between workers and update weights: torch's DDP, or DeepSpeed ZeRO.

Both have one interface. For each micro-batch `with micro_batch(last): forward, backward`; after the
last one `step(learning_rate)`, which returns the gradient's norm, if it can without waiting for the
device. Both engines use AdamW over fp32 master weights and clip the gradient's norm.
B examples, L tokens.

pieces and restore serve resume points, which any number of workers can load. partitioned: a worker
holds pieces that no other one has. copy_model copies the whole weights to the CPU and returns, on
the first worker, a function that saves the copy in a folder; all workers must call it.
"""

from __future__ import annotations

import torch

from s2l_ray.config import TrainingConfig
from s2l_ray.models.loading import Placing
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.sharding import Sharding
from s2l_ray.training.engines.data_parallel import DataParallelEngine
from s2l_ray.training.engines.settings import deepspeed_settings, dtype_of
from s2l_ray.training.engines.shared import rank_and_world
from s2l_ray.training.engines.zero import DeepSpeedEngine, import_deepspeed

__all__ = [
    "DataParallelEngine",
    "DeepSpeedEngine",
    "Engine",
    "make_engine",
    "placing_of",
    "rank_and_world",
]

Engine = DataParallelEngine | DeepSpeedEngine


def make_engine(
    loss: LabelLoss, config: TrainingConfig, device: torch.device, world: int
) -> Engine:
    """DDP, or DeepSpeed if zero_stage is set. Moves the model to the device."""
    if config.zero_stage is None:
        return DataParallelEngine(loss, config, device, world)
    return DeepSpeedEngine(loss, config, device, world)


def placing_of(config: TrainingConfig, device: torch.device, world: int) -> Placing:
    """Say how a worker must load the model for its engine.

    Under ZeRO-3 no worker holds more than its share. Otherwise a GPU gets fp32 weights one by one,
    except that ZeRO 1 and 2 in bf16 start from the weights as they are stored, to cast them.
    ValueError if model.dtype is `auto` and means a precision that the GPU lacks.
    """
    if config.model.dtype == "auto" and device.type == "cuda":
        _check_bfloat16(device)
    if config.zero_stage == 3:
        import_deepspeed(device)
        settings = deepspeed_settings(config, world)
        return Placing(dtype=None, sharding=Sharding(settings, dtype_of(config)))
    if config.zero_stage and dtype_of(config) != torch.float32:
        return Placing(dtype=None)
    return Placing(device=device)


def _check_bfloat16(device: torch.device) -> None:
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ValueError(
            f"model.dtype: auto means bfloat16 on a GPU, which {name} does not have; set it to "
            "float32, or workers.accelerator_type to a newer GPU"
        )
