"""What both engines use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from s2l_ray.config import TrainingConfig
from s2l_ray.models import adapters
from s2l_ray.models.loss import LabelLoss


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def copy_weights(
    loss: LabelLoss, weights: dict[str, Tensor], *, copy: bool = True
) -> Callable[[str], None]:
    """Copy weights to the CPU; return a function that saves them in a folder, in Hugging Face
    format, or in peft's if the model has adapters.

    copy: weights that are on the CPU too.
    """
    state = _on_cpu(weights, copy=copy)
    if adapters.is_adapted(loss.model):
        return partial(adapters.save_adapter, loss.model, state)
    return partial(loss.model.save_pretrained, state_dict=state)


def copy_merged(
    loss: LabelLoss, weights: dict[str, Tensor] | None, gathered: Any
) -> Callable[[str], None] | None:
    """Like copy_weights for the whole model of a training of adapters: see adapters.merged."""
    state = None if weights is None else _on_cpu(weights)
    return adapters.merged(loss.model, state, gathered)


def _on_cpu(weights: dict[str, Tensor], *, copy: bool = True) -> dict[str, Tensor]:
    """Copy weights, each once: under ZeRO 1 and 2 all of them share a buffer, and save_pretrained
    would copy each on the GPU, which may be full."""
    copies: dict[tuple[Any, ...], Tensor] = {}  # one entry for tied weights
    for tensor in weights.values():
        if (key := _place_of(tensor)) not in copies:
            copies[key] = tensor.detach().to("cpu", copy=copy)
    return {name: copies[_place_of(each)] for name, each in _by_name(weights).items()}


def _by_name(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name weights as the model does, not as the loss around it."""
    return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def trained(loss: LabelLoss) -> list[tuple[str, Any]]:
    return [(name, weights) for name, weights in loss.named_parameters() if weights.requires_grad]


def adamw(loss: LabelLoss, config: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimizer of the trained weights. ValueError if its library is missing."""
    weights = [each for _, each in trained(loss)]
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw_8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ValueError(
                'optimizer: adamw_8bit needs bitsandbytes; run `pip install "s2l-ray[qlora]"` on '
                f"every node ({error})"
            ) from error
        return AdamW8bit(weights, lr=rate, weight_decay=decay)
    # On a CPU the fused one is seven times as fast, but has other last digits.
    fused = device.type == "cuda" and not config.offload_optimizer
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=fused or None)
