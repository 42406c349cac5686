"""One optimizer step, on one worker or on each of several. Imports neither Ray nor boto3.

    batch = share_of(examples, micro_batch_size=8)
    result = train_step(engine, batch, learning_rate(config, step, steps))

B examples, L tokens, M label tokens, W workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from s2l_ray.config import TrainingConfig
from s2l_ray.models.batch import Example, pad
from s2l_ray.training.batches import GlobalBatch
from s2l_ray.training.engines import Engine, rank_and_world


class MicroBatch(NamedTuple):
    """The arguments of a forward pass, see models.loss.LabelLoss."""

    input_ids_BL: Tensor
    loss_mask_BL: Tensor

    def pinned(self) -> MicroBatch:
        """Return it in memory that a GPU copies from without waiting."""
        return MicroBatch(*(tensor.pin_memory() for tensor in self))

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class StepBatch(NamedTuple):
    """What one worker needs for a step: its share of the global batch, and counts of all of it."""

    micro_batches: list[MicroBatch]  # of this worker, in CPU memory
    labels: int  # label tokens of the global batch
    tokens: int  # of the global batch
    longest: int  # tokens of the longest example of the global batch

    def pinned(self) -> StepBatch:
        return self._replace(micro_batches=[each.pinned() for each in self.micro_batches])


class StepResult(NamedTuple):
    """One optimizer step over all workers."""

    loss: float  # summed over the label tokens of the batch, divided by their number
    norm: float  # of the gradient, before clipping
    tokens: int
    padded_tokens: int
    ask: bool  # whether any worker asks for a look at Ray Train's notices


def share_of(
    examples: Sequence[Example], *, micro_batch_size: int, rank: int = 0, world: int = 1
) -> StepBatch:
    """Cut one worker's share of a global batch into micro-batches.

    Each takes every W-th example by length, shortest first. Workers get about the same lengths.
    """
    batch = examples if isinstance(examples, GlobalBatch) else GlobalBatch.of(examples)
    mine = np.argsort(batch.lengths_B, kind="stable")[rank::world].tolist()
    cpu = torch.device("cpu")
    return StepBatch(
        [
            MicroBatch(*pad([batch[i] for i in mine[first : first + micro_batch_size]], cpu))
            for first in range(0, len(mine), micro_batch_size)
        ],
        labels=int(batch.labels_B.sum()),
        tokens=int(batch.lengths_B.sum()),
        longest=int(batch.lengths_B.max()),
    )


def train_step(
    engine: Engine,
    batch: StepBatch,
    learning_rate: float,
    *,
    device: torch.device,
    ask: bool = False,
) -> StepResult:
    """Make one optimizer step over the global batch. All workers must call it.

    ask: whether this worker asks for a look at Ray Train's notices; the result tells all workers.
    """
    _, world = rank_and_world()
    total = torch.zeros((), device=device)
    padded = 0
    for number, micro_batch in enumerate(batch.micro_batches):
        last = number == len(batch.micro_batches) - 1
        padded += micro_batch.input_ids_BL.numel()
        with engine.micro_batch(last):
            losses_M = engine.forward(*micro_batch.to(device))
            # Engines average gradients over workers; the factor W turns the mean into a sum.
            engine.backward(losses_M.sum() * (world / batch.labels))
        total += losses_M.detach().sum()
    norm = engine.step(learning_rate)
    counts = torch.tensor([padded, ask], dtype=torch.float64).to(device)
    sums = torch.cat([total.double()[None], counts])
    if world > 1:
        dist.all_reduce(sums)
    # The step's only wait for the device.
    found = torch.cat([sums, torch.as_tensor(norm, dtype=torch.float64, device=device)[None]])
    loss_sum, padded_sum, num_asking, norm = found.tolist()
    return StepResult(loss_sum / batch.labels, norm, batch.tokens, int(padded_sum), num_asking > 0)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the learning rate of step `step`, counted from 0: linear warm-up, then half a cosine.

    As Hugging Face's cosine schedule, except that its first update, at rate 0, is left out.
    """
    warmup = math.ceil(config.warmup_share * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Derive the seed of a worker's random numbers in a step, 64 bits. Only dropout draws any.

    numpy's SeedSequence, which never changes what it derives, mixes the three.
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
