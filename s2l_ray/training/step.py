"""One optimizer step, on one worker or on each of several. Imports neither Ray nor boto3.

    batch = share_of(examples, micro_batch_size=8)
    result = train_step(engine, batch, learning_rate(config, step, steps))

B examples, L tokens, M label tokens, W workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from s2l_ray.config import TrainingConfig
from s2l_ray.models.batch import Example, pack, pad, rows_to_pack
from s2l_ray.training.batches import GlobalBatch
from s2l_ray.training.engines import Engine, rank_and_world

CPU = torch.device("cpu")


class MicroBatch(NamedTuple):
    """The arguments of a forward pass, see models.loss.LabelLoss, and weights of its losses."""

    input_ids_BL: Tensor
    loss_mask_BL: Tensor
    position_ids_BL: Tensor | None  # of packed examples
    num_labels: int  # known here, so that the device need not be asked
    weight_M: Tensor | None = None  # fp32, of each label token; None: all 1

    @classmethod
    def of(
        cls,
        input_ids_BL: Tensor,
        loss_mask_BL: Tensor,
        position_ids_BL: Tensor | None = None,
        weight_M: np.ndarray | None = None,
    ) -> MicroBatch:
        labels = int(loss_mask_BL[:, 1:].sum())
        weights = None if weight_M is None else torch.from_numpy(weight_M)
        assert weights is None or len(weights) == labels
        return cls(input_ids_BL, loss_mask_BL, position_ids_BL, labels, weights)

    def pinned(self) -> MicroBatch:
        """Return it in memory that a GPU copies from without waiting."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> MicroBatch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        positions, weights = self.position_ids_BL, self.weight_M
        return self._replace(
            input_ids_BL=change(self.input_ids_BL),
            loss_mask_BL=change(self.loss_mask_BL),
            position_ids_BL=None if positions is None else change(positions),
            weight_M=None if weights is None else change(weights),
        )


class StepBatch(NamedTuple):
    """What one worker needs for a step: its share of the global batch, and counts of all of it."""

    micro_batches: list[MicroBatch]  # of this worker, in CPU memory
    labels: float  # label tokens of the global batch, each with its example's weight
    tokens: int  # of the global batch
    longest: int  # tokens of the longest example of the global batch

    def pinned(self) -> StepBatch:
        return self._replace(micro_batches=[each.pinned() for each in self.micro_batches])


class StepResult(NamedTuple):
    """One optimizer step over all workers."""

    loss: float  # the mean over the label tokens of the batch, weighted if examples have weights
    norm: float  # of the gradient, before clipping
    tokens: int
    padded_tokens: int
    ask: bool  # whether any worker asks for a look at Ray Train's notices
    save: bool  # whether any worker asks for a resume point after this step
    stop: bool  # whether any worker asks to stop after this step


def share_of(
    examples: Sequence[Example],
    *,
    micro_batch_size: int,
    rank: int = 0,
    world: int = 1,
    tokens_per_row: int | None = None,
) -> StepBatch:
    """Cut one worker's share of a global batch into micro-batches.

    Each takes every W-th example by length, shortest first. Workers get about the same lengths.

    tokens_per_row: pack examples into rows of at most so many tokens, each a micro-batch, instead
    of padding `micro_batch_size` of them. All workers whose shares are of the same size make the
    same number of rows.
    """
    batch = examples if isinstance(examples, GlobalBatch) else GlobalBatch.of(examples)
    order = np.argsort(batch.lengths_B, kind="stable")
    mine = order[rank::world].tolist()

    def weights(rows: list[int]) -> np.ndarray | None:
        if batch.weights_B is None:
            return None
        return np.repeat(batch.weights_B[rows], batch.labels_B[rows])

    if tokens_per_row is None:
        cuts = [slice(i, i + micro_batch_size) for i in range(0, len(mine), micro_batch_size)]
        made = [
            MicroBatch.of(*pad([batch[i] for i in mine[cut]], CPU), weight_M=weights(mine[cut]))
            for cut in cuts
        ]
    else:
        last = np.arange(world - 1, len(order) + world - 1, world).clip(max=len(order) - 1)
        cuts = rows_to_pack(batch.lengths_B[order[last]], tokens_per_row)  # by the longest share
        made = [
            MicroBatch.of(*pack([batch[i] for i in mine[cut]]), weight_M=weights(mine[cut]))
            for cut in cuts
            if mine[cut]
        ]
    labels_B = batch.labels_B
    return StepBatch(
        made,
        labels=float(labels_B.sum() if batch.weights_B is None else labels_B @ batch.weights_B),
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
    save: bool = False,
    stop: bool = False,
) -> StepResult:
    """Make one optimizer step over the global batch. All workers must call it.

    ask, save, stop: whether this worker asks for a look at Ray Train's notices, for a resume point,
    or to stop; the result tells all workers.
    """
    _, world = rank_and_world()
    total = torch.zeros((), device=device)
    padded = 0
    for number, micro_batch in enumerate(batch.micro_batches):
        last = number == len(batch.micro_batches) - 1
        padded += micro_batch.input_ids_BL.numel()
        with engine.micro_batch(last):
            *inputs, weight_M = micro_batch.to(device)
            losses_M = engine.forward(*inputs)
            if weight_M is not None:
                losses_M = losses_M * weight_M
            # Engines average gradients over workers; the factor W turns the mean into a sum.
            engine.backward(losses_M.sum() * (world / batch.labels))
        total += losses_M.detach().sum()
    norm = engine.step(learning_rate)
    counts = torch.tensor([padded, ask, save, stop], dtype=torch.float64).to(device)
    sums = torch.cat([total.double()[None], counts])
    if world > 1:
        dist.all_reduce(sums)
    # The step's only wait for the device.
    found = torch.cat([sums, torch.as_tensor(norm, dtype=torch.float64, device=device)[None]])
    loss_sum, padded_sum, asking, saving, stopping, norm = found.tolist()
    return StepResult(
        loss=loss_sum / batch.labels,
        norm=norm,
        tokens=batch.tokens,
        padded_tokens=int(padded_sum),
        ask=asking > 0,
        save=saving > 0,
        stop=stopping > 0,
    )


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
