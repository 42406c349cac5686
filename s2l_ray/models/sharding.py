"""Loading a model in shares: under ZeRO-3 no worker ever holds the whole of it.

A worker reads the file as mapped memory, keeps its share of each weight, and lets the rest go.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook


class Sharding:
    """Splits weights over the workers, as DeepSpeed's zero.Init does.

    zero.Init itself would draw other random numbers on a GPU, and its weights would have to travel
    from the first worker to the others.

    settings: DeepSpeed's. dtype: of the shares. If that rounds a weight, the share as it was is
    kept in `weight.unrounded`, for the fp32 master weights.
    """

    def __init__(self, settings: dict[str, Any], dtype: torch.dtype) -> None:
        import deepspeed

        deepspeed.init_distributed()  # takes the existing process group
        self.dtype = dtype
        self.zero = deepspeed.zero.Init(config_dict_or_path=settings, dtype=dtype)
        # Otherwise autograd keeps the gathered weight of every linear layer until the backward
        # pass. zero.Init does this when it is entered.
        self.zero._enable_mem_efficient_linear()

    def as_registered(self) -> AbstractContextManager[None]:
        """Split each weight at once when a module gets it. Weights on the meta device stay."""
        return _each_weight(self.split)

    def split_all(self, module: nn.Module) -> None:
        for weight in module.parameters():
            self.split(weight)

    def split(self, weight: Any) -> None:
        """Keep this worker's share. All workers must have the same weight."""
        if is_sharded(weight):
            return
        self.zero._convert_to_deepspeed_param(weight)
        weight.partition()
        share, stored = weight.ds_tensor, weight.ds_tensor.data
        if stored.dtype != self.dtype:
            share.data = stored.to(self.dtype)
            if self.dtype != torch.float32:
                weight.unrounded = stored
        weight.data = torch.empty(0, dtype=self.dtype, device=self.zero.local_device)


def is_sharded(weight: Tensor) -> bool:
    return hasattr(weight, "ds_id")


def on_device(device: torch.device) -> AbstractContextManager[None]:
    """Move each weight of a model at once when a module gets it, so that no copy of all stays."""

    def move(weight: nn.Parameter) -> None:
        weight.data = weight.data.to(device)

    return _each_weight(move)


@contextmanager
def in_a_file() -> Iterator[None]:
    """Put the weights of models that are built meanwhile into mapped files, not into memory.

    The files have no name, and are gone with the weights.
    """
    with tempfile.TemporaryDirectory() as folder:

        def move(weight: nn.Parameter) -> None:
            file = Path(folder, "weight")
            mapped = torch.from_file(str(file), True, weight.numel(), dtype=weight.dtype)
            file.unlink()
            weight.data = mapped.view(weight.shape).copy_(weight.data)

        with _each_weight(move):
            yield


@contextmanager
def _each_weight(change: Callable[[nn.Parameter], None]) -> Iterator[None]:
    """Call `change` with each weight that a module gets, except those on the meta device."""

    def hook(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        if weight is not None and not weight.is_meta and weight.numel():
            change(weight)

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
