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
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines.data_parallel import DataParallelEngine
from s2l_ray.training.engines.shared import rank_and_world
from s2l_ray.training.engines.zero import DeepSpeedEngine

__all__ = ["DataParallelEngine", "DeepSpeedEngine", "Engine", "make_engine", "rank_and_world"]

Engine = DataParallelEngine | DeepSpeedEngine


def make_engine(
    loss: LabelLoss, config: TrainingConfig, device: torch.device, world: int
) -> Engine:
    """DDP, or DeepSpeed if zero_stage is set. Moves the model to the device."""
    if config.zero_stage is None:
        return DataParallelEngine(loss, config, device, world)
    return DeepSpeedEngine(loss, config, device, world)
