"""Examples inside a trainer's batches, padded or packed: their borders, keys and losses.

B rows, L tokens, M label tokens, D examples of a batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100  # the label of a token without a loss

GPU_LOGITS, CPU_LOGITS = 1 << 26, 1 << 20  # at once: 256 MB in fp32; what a CPU's cache holds

_SEED = 20240315  # of the hash; part of the format of recorded losses


class Documents(NamedTuple):
    """The examples of a batch, in row order."""

    index_BL: Tensor  # int64: which example a token belongs to; -1 for padding
    position_BL: Tensor  # int64: the token's position in its example
    number: int


def documents_of(
    input_ids_BL: Tensor, attention_mask_BL: Tensor | None, position_ids_BL: Tensor | None
) -> Documents:
    """Find the examples of a batch. With position ids an example begins wherever they are 0, as in
    packed rows; otherwise each row is one example, and the attention mask tells its padding."""
    if position_ids_BL is not None and position_ids_BL.shape == input_ids_BL.shape:
        starts = (position_ids_BL == 0).flatten()
        index_BL = (starts.cumsum(0) - 1).view(input_ids_BL.shape)
        return Documents(index_BL, position_ids_BL, int(starts.sum()))
    rows = len(input_ids_BL)
    index_BL = torch.arange(rows, device=input_ids_BL.device)[:, None].expand_as(input_ids_BL)
    if attention_mask_BL is None or attention_mask_BL.shape != input_ids_BL.shape:
        position_BL = torch.arange(input_ids_BL.shape[1], device=input_ids_BL.device)
        return Documents(index_BL, position_BL.expand_as(input_ids_BL), rows)
    real_BL = attention_mask_BL.bool()
    return Documents(index_BL.where(real_BL, -1), real_BL.cumsum(1) - 1, rows)


def keys_of(input_ids_BL: Tensor, documents: Documents, longest: int | None = None) -> Tensor:
    """Hash the tokens of each example to int64 [D], on their device.

    longest: at least the number of tokens of the longest example; L by default.

    sum over i of mix(token_i) * r_i mod 2^64, with random odd r_i. Two examples of different tokens
    collide with a probability below 2^-58.
    """
    real_BL = documents.index_BL >= 0
    longest = longest or input_ids_BL.shape[1]
    factors_L = torch.from_numpy(_factors(longest)).to(input_ids_BL.device)
    mixed_BL = (input_ids_BL.long() + 1) * -7046029254386353131
    mixed_BL = (mixed_BL ^ (mixed_BL >> 29)) * -4658895280553007687
    terms_BL = mixed_BL * factors_L[documents.position_BL.clamp(min=0)]
    keys_D = torch.zeros(documents.number, dtype=torch.int64, device=input_ids_BL.device)
    return keys_D.index_add_(0, documents.index_BL[real_BL], terms_BL[real_BL])


def keys_of_rows(input_ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Hash rows of tokens, given end to end: offsets [N + 1] -> int64 [N]. As keys_of."""
    lengths = np.diff(offsets)
    index = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(index)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    documents = Documents(torch.from_numpy(index), torch.from_numpy(position), len(lengths))
    ids, longest = torch.from_numpy(input_ids.astype(np.int64)), int(lengths.max(initial=1))
    return keys_of(ids, documents, longest).numpy()


def losses_of(outputs: Any, labels_BL: Tensor, documents: Documents) -> tuple[Tensor, Tensor]:
    """Return each example's mean loss at its labels, fp32 [D], and the number of labels, int64 [D].

    outputs: of a causal language model of transformers (`logits`), or of one to which TRL added its
    fused head (`log_probs`). The loss is NaN for an example without labels.
    ValueError if the outputs have neither, or their shape does not fit the labels.
    """
    labels_BM = labels_BL[:, 1:]
    # The first token of a packed example has no context of its own, so it is never a label.
    picked_BL = (labels_BM != IGNORED) & (documents.position_BL[:, 1:] > 0)
    log_probs_BL, logits = getattr(outputs, "log_probs", None), getattr(outputs, "logits", None)
    with torch.no_grad():
        if log_probs_BL is not None and log_probs_BL.shape == labels_BM.shape:
            losses_M = -log_probs_BL[picked_BL].float()
        elif logits is not None and logits.shape[:2] == labels_BL.shape:
            losses_M = _cross_entropy(logits, picked_BL, labels_BM[picked_BL])
        else:
            raise ValueError(
                f"{type(outputs).__name__} has no logits or log_probs of the labels' shape "
                f"{list(labels_BL.shape)}"
            )
        index_M = documents.index_BL[:, 1:][picked_BL]
        zeros_D = torch.zeros(documents.number, device=losses_M.device)
        sums_D = zeros_D.index_add(0, index_M, losses_M)
        counts_D = zeros_D.long().index_add(0, index_M, torch.ones_like(index_M))
        return sums_D / counts_D, counts_D


def _cross_entropy(logits_BLV: Tensor, picked_BL: Tensor, targets_M: Tensor) -> Tensor:
    rows, columns = picked_BL.nonzero(as_tuple=True)
    at_once = GPU_LOGITS if logits_BLV.is_cuda else CPU_LOGITS
    block = max(1, at_once // logits_BLV.shape[-1])
    losses = [
        F.cross_entropy(logits_BLV[row, column].float(), targets, reduction="none")
        for row, column, targets in zip(
            rows.split(block), columns.split(block), targets_M.split(block), strict=True
        )
    ]
    return torch.cat(losses) if losses else logits_BLV.new_zeros(0, dtype=torch.float32)


_known = np.empty(0, np.int64)


def _factors(count: int) -> np.ndarray:
    global _known
    if len(_known) < count:
        size = 1 << max(12, (count - 1).bit_length())
        _known = (np.random.PCG64(_SEED).random_raw(size) | np.uint64(1)).view(np.int64)
    return _known[:count]
