"""The loss at label tokens. B examples, L tokens, V vocabulary, M label tokens of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from s2l_ray.models.properties import check_causal, freeze_unreached, head_is_apart

LOGITS_AT_ONCE = 1 << 26  # elements of an [M, V] block in training: 256 MB in fp32. Blocks stay

# for the backward pass, or are made anew there, one at a time.
VOCABULARY_BLOCK = 2048  # logits of a label token that scoring looks at together


class LabelLoss(nn.Module):
    """Cross-entropy at the label tokens alone: what training sums and scoring averages.

    forward(input_ids_BL, loss_mask_BL) -> losses_M, fp32, in row order: the loss of each label
    token given the tokens before it. Rows are padded on the right; causal attention keeps the
    padding out of the real tokens, so no attention mask is needed.

    The output head runs at label positions only, where the model lets it (`head_apart`). Models
    that do more to their logits (scaling, soft-capping) take the whole forward pass. Of a model for
    more than text (Gemma 3) the rest is frozen. ValueError for one whose tokens see later ones.

    anew: the head's logits are made again for the backward pass, and not kept for it.
    """

    def __init__(self, model: PreTrainedModel, *, anew: bool = False) -> None:
        super().__init__()
        check_causal(model)
        freeze_unreached(model)
        self.model, self.anew = model, anew
        self.head_apart = head_is_apart(model)

    def forward(self, input_ids_BL: Tensor, loss_mask_BL: Tensor) -> Tensor:
        picked_BL = loss_mask_BL[:, 1:]
        targets_M = input_ids_BL[:, 1:][picked_BL]
        if not self.head_apart:
            logits_BLV = self.model(input_ids=input_ids_BL, use_cache=False).logits
            return F.cross_entropy(
                logits_BLV[:, :-1][picked_BL].float(), targets_M, reduction="none"
            )
        hidden_MD = self.hidden(input_ids_BL, picked_BL)
        if not torch.is_grad_enabled():
            return over_vocabulary(logits_by_block(self.head, hidden_MD), targets_M).losses_M
        losses: Any = self._losses
        rows = max(1, LOGITS_AT_ONCE // self.model.config.get_text_config().vocab_size)
        if hasattr(self.head.weight, "ds_id"):
            # ZeRO-3: a call gathers the weights from all workers, so that all must make as many.
            rows = max(1, len(targets_M))
        elif self.anew:
            losses = partial(checkpoint, self._losses, use_reentrant=False)
        return torch.cat(
            [
                losses(hidden, targets)
                for hidden, targets in zip(
                    hidden_MD.split(rows), targets_M.split(rows), strict=True
                )
            ]
        )

    def _losses(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        return F.cross_entropy(self.head(hidden_MD).float(), targets_M, reduction="none")

    @property
    def head(self) -> Any:
        """The output head, or None if the model does not tell it."""
        return self.model.get_output_embeddings()

    def hidden(self, input_ids_BL: Tensor, picked_BL: Tensor) -> Tensor:
        """[M, D]: what goes into a head that is apart, at the positions before the picked."""
        hidden_BLD = self.model.base_model(
            input_ids=input_ids_BL, use_cache=False
        ).last_hidden_state
        return hidden_BLD[:, :-1][picked_BL]


class OverVocabulary(NamedTuple):
    """What the logits of M label tokens come to; the last two only where asked for."""

    log_sum_M: Tensor  # of their exponentials
    target_M: Tensor  # the label token's own logit
    largest_M: Tensor | None
    log_squares_M: Tensor | None  # of the squared exponentials, the label token's left out

    @property
    def losses_M(self) -> Tensor:
        return self.log_sum_M - self.target_M


def logits_by_block(head: nn.Linear, hidden_MD: Tensor) -> Iterator[Tensor]:
    """The head's logits [M, V], fp32, a block of the vocabulary at a time.

    Blocks of logits are used up while they are in the caches; [M, V] of them would go to memory
    and back several times.
    """
    for first in range(0, head.out_features, VOCABULARY_BLOCK):
        block = slice(first, first + VOCABULARY_BLOCK)
        bias = None if head.bias is None else head.bias[block]
        yield F.linear(hidden_MD, head.weight[block], bias).float()


def over_vocabulary(
    blocks: Iterable[Tensor], targets_M: Tensor, *, beyond: bool = False
) -> OverVocabulary:
    """One pass over blocks of logits. `beyond`: also what the loss does not need."""
    sums, largest, squares, first = list[Tensor](), list[Tensor](), list[Tensor](), 0
    target_M = torch.zeros(len(targets_M), device=targets_M.device)
    for logits_MV in blocks:
        # Any column gives the logarithm of the sum: log_softmax is one pass, logsumexp several.
        sums.append(logits_MV[:, 0] - logits_MV.log_softmax(1)[:, 0])
        place_M, inside_M = places_in_block(targets_M, first, logits_MV)
        found_M = logits_MV.gather(1, place_M[:, None])[:, 0]
        target_M = torch.where(inside_M, found_M, target_M)
        if beyond:
            largest.append(logits_MV.amax(1))
            own_M = torch.where(inside_M, -torch.inf, found_M)
            others_MV = logits_MV.scatter(1, place_M[:, None], own_M[:, None])
            squares.append((2 * others_MV).logsumexp(1))
        first += logits_MV.shape[1]
    return OverVocabulary(
        torch.stack(sums).logsumexp(0),
        target_M,
        torch.stack(largest).amax(0) if beyond else None,
        torch.stack(squares).logsumexp(0) if beyond else None,
    )


def places_in_block(targets_M: Tensor, first: int, block_MV: Tensor) -> tuple[Tensor, Tensor]:
    """The column of each label token in a block that begins at token `first`, and whether it has
    one there; the others' is 0."""
    place_M = targets_M - first
    inside_M = (place_M >= 0) & (place_M < block_MV.shape[1])
    return torch.where(inside_M, place_M, 0), inside_M
