"""A worker's batches, made in advance by threads while the device computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from s2l_ray.models.ahead import ahead
from s2l_ray.training.batches import BatchStream
from s2l_ray.training.step import StepBatch, share_of

STEPS_AHEAD = 2


def step_batches(
    stream: BatchStream,
    first: int,
    *,
    micro_batch_size: int,
    rank: int,
    world: int,
    device: torch.device,
    tokens_per_row: int | None = None,
) -> Iterator[StepBatch]:
    """Yield this worker's share of batches `first`, `first` + 1, …, in pinned memory for a GPU.

    tokens_per_row: as in `share_of`.
    """
    on_gpu = device.type == "cuda"

    def prepare() -> None:
        if on_gpu:
            torch.cuda.set_device(device)  # otherwise pinning would open the first GPU as well

    def shares() -> Iterator[StepBatch]:
        for batch in stream.batches(first):
            share = share_of(
                batch,
                micro_batch_size=micro_batch_size,
                rank=rank,
                world=world,
                tokens_per_row=tokens_per_row,
            )
            yield share.pinned() if on_gpu else share

    return ahead(shares(), STEPS_AHEAD, prepare=prepare)
