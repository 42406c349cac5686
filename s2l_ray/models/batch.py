"""Batches of tokens. B examples, L tokens."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from torch import Tensor

Example = tuple[np.ndarray, np.ndarray]  # input_ids int64 [L], loss_mask bool [L]


def pad(examples: list[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return input_ids int64 [B, L], padded with 0 on the right, and loss_mask bool [B, L]."""
    longest = max(len(ids) for ids, _ in examples)
    input_ids_BL = np.zeros((len(examples), longest), np.int64)
    loss_mask_BL = np.zeros((len(examples), longest), bool)
    for row, (ids, mask) in enumerate(examples):
        input_ids_BL[row, : len(ids)] = ids
        loss_mask_BL[row, : len(ids)] = mask
    return torch.from_numpy(input_ids_BL).to(device), torch.from_numpy(loss_mask_BL).to(device)


def examples_of(tokens: pa.Table) -> list[Example]:
    """Return the rows of a table of tokens as arrays."""
    return [
        (np.asarray(ids, np.int64), np.asarray(mask, bool))
        for ids, mask in zip(
            tokens["input_ids"].to_numpy(), tokens["loss_mask"].to_numpy(), strict=True
        )
    ]


def token_batches(examples: list[Example], tokens_per_batch: int) -> list[np.ndarray]:
    """Cut the rows, longest first, into batches of at most so many padded tokens.

    A row that is longer than that is a batch of its own.
    """
    lengths = np.array([len(ids) for ids, _ in examples], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches
