"""The loss at label tokens.

B examples, L tokens, V vocabulary, M label tokens of a batch, D width of the output head's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from s2l_ray.models.chunked import chunked_losses
from s2l_ray.models.properties import (
    check_causal,
    check_packing,
    freeze_unreached,
    head_is_apart,
    of_packed,
    output_head,
    trial_model,
)

# Elements of a block of logits [M, V] in training: 256 MB in fp32.
LOGITS_AT_ONCE = 1 << 26

# Logits per label token that scoring computes at once on a CPU: a block stays in the caches.
VOCABULARY_BLOCK = 2048


class LabelLoss(nn.Module):
    """Cross-entropy at label tokens only. Training sums it; scoring averages it.

    forward(input_ids_BL, loss_mask_BL) -> losses_M, fp32, in row order: the loss of each label
    token given the tokens before it. Rows are padded on the right. Attention is causal, so padding
    does not reach real tokens, and no attention mask is needed.

    position_ids_BL: of packed examples, see models.batch.pack. transformers then keeps attention
    within each example. packing: check that this model does (`check_packing`). num_labels: M, if it
    is known, so that a GPU is not waited for.

    If the model applies nothing after its output head (`head_apart`), the head runs at label
    positions only. Models that scale or soft-cap their logits take the whole forward pass. Weights
    that text does not reach, such as the vision tower of Gemma 3, are frozen.

    In training, label tokens beyond LOGITS_AT_ONCE logits are taken in chunks (models/chunked.py).
    ValueError if attention is not causal.
    """

    def __init__(self, model: PreTrainedModel, *, packing: bool = False) -> None:
        super().__init__()
        trial = trial_model(model)
        check_causal(trial)
        if packing:
            check_packing(trial)
        freeze_unreached(model)
        self.model = model
        self.head_apart = head_is_apart(trial)

    def forward(
        self,
        input_ids_BL: Tensor,
        loss_mask_BL: Tensor,
        position_ids_BL: Tensor | None = None,
        num_labels: int | None = None,
    ) -> Tensor:
        places_M = places_before(loss_mask_BL, num_labels)
        targets_M = input_ids_BL.flatten()[places_M + 1]
        if not self.head_apart:
            packed = of_packed(position_ids_BL)
            logits_BLV = self.model(input_ids=input_ids_BL, use_cache=False, **packed).logits
            logits_MV = logits_BLV.flatten(0, 1).index_select(0, places_M)
            return F.cross_entropy(logits_MV.float(), targets_M, reduction="none")
        hidden_MD = self.hidden(input_ids_BL, places_M, position_ids_BL)
        if not torch.is_grad_enabled():
            blocks = logits_by_block(self.head, hidden_MD)
            return over_vocabulary(blocks, targets_M.to(hidden_MD.device)).losses_M
        rows = max(1, LOGITS_AT_ONCE // self.model.config.get_text_config().vocab_size)
        head, forward = self.head, self.head.forward

        def losses(hidden_MD: Tensor) -> Tensor:
            if len(targets_M) > rows and type(head) is nn.Linear:
                return chunked_losses(head, hidden_MD, targets_M, rows=rows)
            return F.cross_entropy(forward(hidden_MD).float(), targets_M, reduction="none")

        return _in_place_of_forward(head, losses, hidden_MD)

    @property
    def head(self) -> Any:
        """The output head, or None if the model does not expose it."""
        return output_head(self.model)

    def hidden(
        self, input_ids_BL: Tensor, places_M: Tensor, position_ids_BL: Tensor | None = None
    ) -> Tensor:
        """Return the head's input [M, D] at these places of the flattened tokens. `head_apart`."""
        hidden_BLD = self.model.base_model(
            input_ids=input_ids_BL, use_cache=False, **of_packed(position_ids_BL)
        ).last_hidden_state
        hidden_MD = hidden_BLD.flatten(0, 1).index_select(0, places_M.to(hidden_BLD.device))
        return hidden_MD.to(self.head.weight.device)  # another one, if layers are on several GPUs


def places_before(loss_mask_BL: Tensor, num_labels: int | None = None) -> Tensor:
    """Return the places [M] of the tokens before label tokens, in the flattened tokens.

    On a GPU this waits for the device, unless it is told their number M.
    """
    picked_BL = loss_mask_BL[:, 1:]
    if num_labels is None:
        found_M2 = picked_BL.nonzero()
    else:
        found_M2 = picked_BL.nonzero_static(size=num_labels)
    row_M, column_M = found_M2.unbind(1)
    return row_M * loss_mask_BL.shape[1] + column_M


def _in_place_of_forward(module: nn.Module, compute: Callable, *inputs: Tensor) -> Tensor:
    """Run compute(*inputs) as the module's forward pass: ZeRO-3 gathers the module's weights once
    for it and once for its backward pass, on every worker, whatever number of chunks it has."""
    before = module.__dict__.get("forward")
    module.forward = compute
    try:
        return module(*inputs)
    finally:
        del module.forward
        if before is not None:
            module.forward = before


class OverVocabulary(NamedTuple):
    """Logits of M label tokens, reduced over the vocabulary. The last two are optional."""

    log_sum_M: Tensor  # of the exponentials
    target_M: Tensor  # the label token's own logit
    largest_M: Tensor | None
    log_squares_M: Tensor | None  # of the squared exponentials, without the label token's

    @property
    def losses_M(self) -> Tensor:
        return self.log_sum_M - self.target_M


def logits_by_block(head: nn.Linear, hidden_MD: Tensor) -> Iterator[Tensor]:
    """Yield the head's logits [M, V], fp32, one block of the vocabulary at a time."""
    width = block_width(len(hidden_MD), hidden_MD.device)
    for first in range(0, head.out_features, width):
        block = slice(first, first + width)
        bias = None if head.bias is None else head.bias[block]
        yield F.linear(hidden_MD, head.weight[block], bias).float()


def block_width(label_tokens: int, device: torch.device) -> int:
    """Return how many logits per label token scoring computes at once.

    A CPU uses a block while it is in its caches. All of [M, V] would travel to memory and back
    several times. A GPU takes as many as LOGITS_AT_ONCE allows, because each block costs it a dozen
    kernels, however small.
    """
    if device.type == "cpu":
        return VOCABULARY_BLOCK
    return max(VOCABULARY_BLOCK, LOGITS_AT_ONCE // max(1, label_tokens))


def over_vocabulary(
    blocks: Iterable[Tensor], targets_M: Tensor, *, extremes: bool = False
) -> OverVocabulary:
    """Reduce blocks of logits in one pass. extremes: the two fields that the loss does not need."""
    sums, largest, squares, first = list[Tensor](), list[Tensor](), list[Tensor](), 0
    target_M = torch.zeros(len(targets_M), device=targets_M.device)
    for logits_MV in blocks:
        # Any column gives log_sum. log_softmax makes one pass; logsumexp makes several.
        sums.append(logits_MV[:, 0] - logits_MV.log_softmax(1)[:, 0])
        place_M, inside_M = places_in_block(targets_M, first, logits_MV)
        found_M = logits_MV.gather(1, place_M[:, None])[:, 0]
        target_M = torch.where(inside_M, found_M, target_M)
        if extremes:
            largest.append(logits_MV.amax(1))
            own_M = torch.where(inside_M, -torch.inf, found_M)
            others_MV = logits_MV.scatter(1, place_M[:, None], own_M[:, None])
            squares.append((2 * others_MV).logsumexp(1))
        first += logits_MV.shape[1]
    return OverVocabulary(
        torch.stack(sums).logsumexp(0),
        target_M,
        torch.stack(largest).amax(0) if extremes else None,
        torch.stack(squares).logsumexp(0) if extremes else None,
    )


def places_in_block(targets_M: Tensor, first: int, block_MV: Tensor) -> tuple[Tensor, Tensor]:
    """Find the column of each label token in a block that starts at token `first`.

    Returns the columns (0 for tokens outside the block) and whether each token is in the block.
    """
    place_M = targets_M - first
    inside_M = (place_M >= 0) & (place_M < block_MV.shape[1])
    return torch.where(inside_M, place_M, 0), inside_M
