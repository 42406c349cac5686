"""Batches for scoring, made by a thread while the model computes.

B examples, L tokens, M label tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from s2l_ray.models.ahead import ahead
from s2l_ray.models.batch import Example, pad, token_batches
from s2l_ray.models.loss import places_before

AHEAD = 4  # batches


class LabelBatch(NamedTuple):
    """Padded examples, and where their label tokens are.

    The places are found before the batch goes to the device. On the device, finding them would wait
    for all that the device still has to do.
    """

    input_ids_BL: Tensor
    places_M: Tensor  # of the tokens before the label tokens, in the flattened input_ids
    counts_B: Tensor  # label tokens of each example
    counts: list[int]  # the same, for the host

    @property
    def targets_M(self) -> Tensor:
        return self.input_ids_BL.flatten().index_select(0, self.places_M + 1)

    def to(self, device: torch.device) -> LabelBatch:
        """Copy to the device without waiting, from pinned memory."""
        if device.type != "cuda":
            return self
        ids_BL, places_M, counts_B = (
            each.pin_memory().to(device, non_blocking=True) for each in self[:3]
        )
        return LabelBatch(ids_BL, places_M, counts_B, self.counts)


def label_batch(examples: list[Example]) -> LabelBatch:
    """Pad examples."""
    input_ids_BL, loss_mask_BL = pad(examples, torch.device("cpu"))
    counts_B = loss_mask_BL[:, 1:].sum(1)
    return LabelBatch(input_ids_BL, places_before(loss_mask_BL), counts_B, counts_B.tolist())


def label_batches(
    examples: list[Example], tokens_per_batch: int, device: torch.device
) -> Iterator[tuple[np.ndarray, LabelBatch]]:
    """Yield batches on the device, with their rows, the longest examples first."""

    def make(rows: np.ndarray) -> tuple[np.ndarray, LabelBatch]:
        return rows, label_batch([examples[row] for row in rows]).to(device)

    return ahead(map(make, token_batches(examples, tokens_per_batch)), AHEAD)
