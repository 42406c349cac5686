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


def pack(examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Return input_ids int64, loss_mask bool and position_ids int64, all [1, L], without padding.

    The examples follow one another. Positions start at 0 in each, which is how transformers tells
    where one begins.
    """
    masks = [mask.copy() for _, mask in examples]
    for mask in masks:
        mask[0] = False  # nothing predicts the first token, least of all the example before it
    positions = [np.arange(len(mask)) for mask in masks]
    columns = [ids for ids, _ in examples], masks, positions
    ids_L, mask_L, position_L = (torch.from_numpy(np.concatenate(column)) for column in columns)
    return ids_L[None], mask_L[None], position_L[None]


def examples_of(tokens: pa.Table) -> list[Example]:
    """Return the rows of a table of tokens as arrays."""
    return [
        (np.asarray(ids, np.int64), np.asarray(mask, bool))
        for ids, mask in zip(
            tokens["input_ids"].to_numpy(), tokens["loss_mask"].to_numpy(), strict=True
        )
    ]


def rows_to_pack(lengths: np.ndarray, tokens_per_row: int) -> list[slice]:
    """Cut a sequence of examples into as few rows of at most so many tokens as possible.

    A longer example is a row of its own.
    """
    ends = np.cumsum(lengths)
    rows, start = list[slice](), 0
    while start < len(lengths):
        before = ends[start] - lengths[start]
        end = max(start + 1, int(np.searchsorted(ends, before + tokens_per_row, "right")))
        rows.append(slice(start, end))
        start = end
    return rows


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
