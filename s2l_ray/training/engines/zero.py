"""Training with DeepSpeed ZeRO."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from s2l_ray.config import TrainingConfig
from s2l_ray.models.adapters import is_adapted
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.sharding import is_sharded
from s2l_ray.training.engines.settings import deepspeed_settings, dtype_of
from s2l_ray.training.engines.shared import (
    adamw,
    copy_merged,
    copy_weights,
    rank_and_world,
    trained,
)
from s2l_ray.training.partitions import partitioned_pieces, restore_partitions, set_masters
from s2l_ray.training.pieces import Piece, SavedPieces, restore_whole, whole_pieces

M_MMAP_THRESHOLD = -3  # of the C library's mallopt


class DeepSpeedEngine:
    """DeepSpeed ZeRO, stages 0 to 3."""

    def __init__(
        self, loss: LabelLoss, config: TrainingConfig, device: torch.device, world: int
    ) -> None:
        self.loss = loss.train()
        if config.zero_stage == 3 and device.type == "cpu":
            _free_at_once()
        rounded = _cast(loss, dtype_of(config), device)
        self.engine, *_ = import_deepspeed(device).initialize(
            model=loss,
            optimizer=adamw(loss, config, device),
            config=deepspeed_settings(config, world),
        )
        set_masters(rounded)

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

    def copy_model(self, *, merge: bool = False) -> Callable[[str], None] | None:
        first = rank_and_world()[0] == 0
        if is_adapted(self.loss.model) and not merge:
            own = dict(trained(self.loss))
            with self._gathered(own.values()):
                return copy_weights(self.loss, own) if first else None
        weights = self._state_dict()
        if merge:
            return copy_merged(self.loss, weights if first else None, self._gathered)
        # Of a training on the CPU they may be the very weights.
        copy = self.engine.zero_optimization_stage() < 3 or self.engine.device.type == "cpu"
        return copy_weights(self.loss, weights, copy=copy) if first else None

    @property
    def partitioned(self) -> bool:
        return self.engine.zero_optimization_stage() > 0

    def pieces(self) -> Iterator[Piece]:
        if self.partitioned:
            return partitioned_pieces(trained(self.loss), self.engine.optimizer)
        return whole_pieces(trained(self.loss), self.engine.optimizer.state, *rank_and_world())

    def restore(self, saved: SavedPieces, steps: int) -> None:
        if self.partitioned:
            restore_partitions(trained(self.loss), self.engine.optimizer, saved, steps)
        else:
            restore_whole(trained(self.loss), self.engine.optimizer, saved)

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


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for the worker's device.

    It would take any GPU that it sees, even one that Ray gave to another worker or to none.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    if device.type == "cpu":
        # This operator, for inference only, takes a minute to compile.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _free_at_once() -> None:
    """Return blocks of 4 MB and more to the system as soon as they are freed.

    The C library would keep the places of gathered weights, which differ in size and fit none of
    the next: 1.5 GB in a step of a 1.1B model.
    """
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 4 << 20)


def _cast(loss: LabelLoss, dtype: torch.dtype, device: torch.device) -> list[tuple[Any, Tensor]]:
    """Cast the weights one at a time. Return the trained ones that this rounds, each with what it
    was; of a weight in shares, with this worker's share."""
    rounded: list[tuple[Any, Tensor]] = []
    for parameter in loss.parameters():
        stored = None
        if is_sharded(parameter):  # and has been cast
            stored = parameter.__dict__.pop("unrounded", None)
        elif parameter.is_floating_point() and parameter.dtype != dtype:
            stored = parameter.data
            parameter.data = stored.to(device, dtype)
        if stored is not None and parameter.requires_grad and dtype != torch.float32:
            rounded.append((parameter, stored))
    return rounded
