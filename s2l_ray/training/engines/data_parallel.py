"""Training with torch's DistributedDataParallel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from s2l_ray.config import TrainingConfig
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines.shared import (
    adamw,
    rank_and_world,
    save_merged,
    save_weights,
    trained,
)


class DataParallelEngine:
    """torch's DistributedDataParallel, or the bare module if there is one worker."""

    def __init__(
        self, loss: LabelLoss, config: TrainingConfig, device: torch.device, world: int
    ) -> None:
        self.loss = loss.to(device)
        self.loss.train()
        self.max_grad_norm = config.max_grad_norm
        self.optimizer = adamw(self.loss, config)
        self.module: Any = self.loss
        if world > 1:
            self.module = DistributedDataParallel(
                self.loss, device_ids=[device] if device.type == "cuda" else None
            )
        self.autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=config.model.dtype == "bfloat16"
        )

    def forward(self, *micro_batch: Any) -> Tensor:
        with self.autocast:
            return self.module(*micro_batch)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        alone = last or self.module is self.loss
        return nullcontext() if alone else self.module.no_sync()  # share gradients once per step

    def step(self, learning_rate: float) -> Tensor | float:
        norm = torch.nn.utils.clip_grad_norm_(self.loss.parameters(), self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def save_model(self, local: str) -> None:
        if rank_and_world()[0] == 0:
            save_weights(self.loss, self.loss.state_dict(), local)

    def save_merged(self, local: str) -> None:
        if rank_and_world()[0] == 0:
            save_merged(self.loss, self.loss.state_dict(), local, nullcontext)

    def save_optimizer(self, local: str) -> None:
        if rank_and_world()[0] != 0:
            return
        tensors = {
            f"{name}/{key}": value.contiguous()
            for name, parameter in trained(self.loss)
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
