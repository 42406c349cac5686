"""What both engines use."""

from __future__ import annotations

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


def save_weights(loss: LabelLoss, weights: dict[str, Tensor], local: str) -> None:
    """Save a folder in Hugging Face format, or in peft's if the model has adapters."""
    if adapters.is_adapted(loss.model):
        adapters.save_adapter(loss.model, _by_name(weights), local)
    else:
        loss.model.save_pretrained(local, state_dict=_on_cpu(_by_name(weights)))


def save_merged(
    loss: LabelLoss, weights: dict[str, Tensor] | None, local: str, gathered: Any
) -> None:
    """Save the whole model of a training of adapters: see adapters.save_merged."""
    state = None if weights is None else _on_cpu(_by_name(weights))
    adapters.save_merged(loss.model, state, local, gathered)


def _by_name(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name weights as the model does, not as the loss around it."""
    return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights to the CPU, tied ones once: under ZeRO 1 and 2 all weights share a buffer, and
    save_pretrained would copy each of them on the GPU, which may be full."""
    found: dict[tuple[Any, ...], Tensor] = {}
    for tensor in weights.values():
        if (key := _place_of(tensor)) not in found:
            found[key] = tensor.detach().to("cpu")
    return {name: found[_place_of(tensor)] for name, tensor in weights.items()}


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def trained(loss: LabelLoss) -> list[tuple[str, Any]]:
    return [(name, weights) for name, weights in loss.named_parameters() if weights.requires_grad]


def adamw(loss: LabelLoss, config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [weights for _, weights in trained(loss)],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
