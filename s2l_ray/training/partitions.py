"""What a worker holds of weights and optimizer under DeepSpeed ZeRO 1 to 3, as pieces.

zero: DeepSpeed's optimizer, which holds torch's over flat partitions of the fp32 master weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from s2l_ray.training.pieces import MASTER, Piece, SavedPieces

Named = list[tuple[str, Any]]  # the parameters that are trained, by name


def partitioned_pieces(trained: Named, zero: Any) -> Iterator[Piece]:
    """Yield the pieces that this worker holds."""
    flat = _flat(zero)[0]
    keys = [key for key, value in zero.optimizer.state[flat].items() if _is_like(value, flat)]
    for name, parameter in trained:
        start, stop = _range(parameter)
        if start < stop:
            tensors = {key: _get(parameter, key, stop - start) for key in (MASTER, *keys)}
            yield Piece(name, start, tensors)


def restore_partitions(trained: Named, zero: Any, saved: SavedPieces, steps: int) -> None:
    """Set what this worker holds from saved pieces, then the weights from the master weights.

    steps: optimizer steps done. All workers must call it.
    """
    if not (keys := saved.keys()):  # this worker held nothing
        saved.open_all()
        keys = saved.keys()
    fused = zero.optimizer.param_groups[0].get("fused")
    for flat in _flat(zero):
        step = torch.tensor(float(steps), device=flat.device if fused else "cpu")
        state = {key: torch.zeros_like(flat) for key in keys if key != MASTER}
        zero.optimizer.state[flat] = {"step": step, **state}
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # DeepSpeed's own next step
        zero._lazy_init_hp_params_optimizer_state()
    for name, parameter in trained:
        start, stop = _range(parameter)
        if start < stop:
            for key in keys:
                _set(parameter, key, saved.part(name, key, start, stop))
    _weights_from_masters(zero)


def set_masters(stored: list[tuple[Any, Tensor]]) -> None:
    """Set master weights from parameters as they were stored: whole, or this worker's share."""
    for parameter, values in stored:
        start, stop = _range(parameter)
        if start < stop:
            is_share = hasattr(parameter, "ds_tensor") and values.shape == parameter.ds_tensor.shape
            own = values[: stop - start] if is_share else values.flatten()[start:stop]
            _set(parameter, MASTER, own.float())


def _flat(zero: Any) -> list[Tensor]:
    """Return the flat partitions of the master weights, which the optimizer's state goes by."""
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
        return zero.fp32_partitioned_groups_flat
    return [tensor for group in zero.optimizer.param_groups for tensor in group["params"]]


def _is_like(value: Any, flat: Tensor) -> bool:
    return torch.is_tensor(value) and value.shape == flat.shape


def _range(parameter: Any) -> tuple[int, int]:
    """Return which elements of the flattened parameter this worker holds."""
    if hasattr(parameter, "ds_tensor"):  # stage 3: equal shares, the last ones padded
        size, rank = parameter.ds_tensor.numel(), dist.get_rank()
        return size * rank, min(size * (rank + 1), parameter.ds_numel)
    if parameter._hp_mapping is None:
        return 0, 0
    place = parameter._hp_mapping.lp_fragment_address
    return place.start, place.start + place.numel


def _get(parameter: Any, key: str, count: int) -> Tensor:
    kind = None if key == MASTER else key
    if hasattr(parameter, "ds_tensor"):
        return parameter._z3_optimizer.get_local_fp32_param(parameter, kind)[:count]
    return parameter._hp_mapping.get_hp_fragment(kind)


def _set(parameter: Any, key: str, values: Tensor) -> None:
    kind = None if key == MASTER else key
    if hasattr(parameter, "ds_tensor"):
        padding = parameter.ds_tensor.numel() - len(values)
        padded = torch.nn.functional.pad(values, (0, padding))
        parameter._z3_optimizer.set_local_hp_param(padded, parameter, kind)
    else:
        parameter._hp_mapping.get_hp_fragment(kind).data.copy_(values)


def _weights_from_masters(zero: Any) -> None:
    """Set the weights that the model computes with, as DeepSpeed does after each step."""
    if hasattr(zero, "update_lp_params"):  # stages 1 and 2
        zero.update_lp_params()
        return
    zero.checkpoint_event_prologue()  # release what is gathered
    for number in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(number)
    zero.checkpoint_event_epilogue()  # gather what stays gathered
