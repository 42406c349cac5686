"""Training with torch's DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from s2l_ray.config import TrainingConfig
from s2l_ray.models.adapters import is_adapted
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines.shared import (
    adamw,
    copy_merged,
    copy_weights,
    rank_and_world,
    trained,
)
from s2l_ray.training.pieces import Piece, SavedPieces, restore_whole, whole_pieces


class DataParallelEngine:
    """torch's DistributedDataParallel, or the bare module if there is one worker."""

    partitioned = False

    def __init__(
        self, loss: LabelLoss, config: TrainingConfig, device: torch.device, world: int
    ) -> None:
        self.loss = loss.to(device)
        self.loss.train()
        self.max_grad_norm = config.max_grad_norm
        self.optimizer = adamw(self.loss, config, device)
        self.module: Any = self.loss
        if world > 1:
            self.module = DistributedDataParallel(
                self.loss,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,  # instead of a copy of all gradients
            )
        self.autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"
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

    def copy_model(self, *, merge: bool = False) -> Callable[[str], None] | None:
        if rank_and_world()[0] != 0:
            return None
        if merge:
            return copy_merged(self.loss, self.loss.state_dict(), nullcontext)
        own = dict(trained(self.loss)) if is_adapted(self.loss.model) else self.loss.state_dict()
        return copy_weights(self.loss, own)

    def pieces(self) -> Iterator[Piece]:
        return whole_pieces(trained(self.loss), self.optimizer.state, *rank_and_world())

    def restore(self, saved: SavedPieces, steps: int) -> None:
        restore_whole(trained(self.loss), self.optimizer, saved)
