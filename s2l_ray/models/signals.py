"""Signals: what a forward pass tells about an example besides its loss. Some selectors need them.

B examples, L tokens, V vocabulary, D width of the output head's input, M label tokens of a batch,
m label tokens of one example.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2l_ray.models.feed import LabelBatch
from s2l_ray.models.loss import (
    LabelLoss,
    OverVocabulary,
    logits_by_block,
    over_vocabulary,
    places_in_block,
)

MOST_RANK = 100  # from which on ranks count alike


def signals_of(loss: LabelLoss, batch: LabelBatch, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Compute `loss` [B], whose bits do not depend on `names`, and the named signals:

    - `confidence` [B]: mean over label tokens of the probability of the most likely token.
    - `el2n` [B]: mean over label tokens of ||p - onehot(y)||_2 (Paul, Ganguli, Dziugaite 2021,
      arXiv 2107.07075), where the distribution p predicts the label token y.
    - `grad_norm` [B]: Frobenius norm of the gradient of the example's loss with respect to the
      output head's weight, ||1/m sum_t (p_t - onehot(y_t)) h_t^T||_F. If the head is tied to the
      embeddings, only the head's share of the gradient.
    - `rank` [B]: mean over label tokens of min(rank, MOST_RANK), where the most likely token has
      rank 1 (Yang et al. 2026, arXiv 2601.14249). Equal logits share the smallest rank.
    - `features` [B, D]: mean of the last hidden states h_t (the head's input) at the positions
      before label tokens.

    All are fp32, on the device of the logits. The model must be in eval mode, gradients off, and
    every example must have a label token. Nothing here waits for the device.
    ValueError for `features` or `grad_norm` if the model does not expose its output head.
    """
    ids_BL, targets_M, counts_B = batch.input_ids_BL, batch.targets_M, batch.counts_B
    if loss.head_apart:
        hidden_MD = loss.hidden(ids_BL, batch.places_M)
        targets_M, counts_B = targets_M.to(hidden_MD.device), counts_B.to(hidden_MD.device)
        extremes = bool({"confidence", "el2n"} & set(names))
        blocks: Iterable[Tensor] = logits_by_block(loss.head, hidden_MD)
        seen = over_vocabulary(blocks, targets_M, extremes=extremes)
        blocks = logits_by_block(loss.head, hidden_MD)  # once more, for `rank`
        losses_M, residuals = seen.losses_M, _residuals(loss.head, hidden_MD, seen, targets_M)
    else:
        logits_MV, losses_M, hidden_MD, residuals = _whole_pass(
            loss, ids_BL, batch.places_M, targets_M, {"features", "grad_norm"} & set(names)
        )
        blocks = [logits_MV]
        seen = over_vocabulary(blocks, targets_M, extremes=True)
    found = {"loss": _means(losses_M, counts_B)}
    if "confidence" in names:
        assert seen.largest_M is not None
        found["confidence"] = _means((seen.largest_M - seen.log_sum_M).exp(), counts_B)
    if "el2n" in names:
        found["el2n"] = _means(_distances(seen), counts_B)
    if "rank" in names:
        found["rank"] = _means(_ranks(blocks, seen), counts_B)
    if "features" in names:
        found["features"] = _means(hidden_MD, counts_B)
    if "grad_norm" in names:
        found["grad_norm"] = _gradient_norms(residuals, hidden_MD, batch.counts)
    return found


def width_of_features(loss: LabelLoss) -> int:
    """Return D without a forward pass. ValueError as for `features` itself."""
    weight = getattr(loss.head, "weight", None)
    if weight is None:
        raise _no_head(loss, {"features"})
    return weight.shape[1]


def _no_head(loss: LabelLoss, names: set[str]) -> ValueError:
    return ValueError(
        f"signals {', '.join(sorted(names))}: {type(loss.model).__name__} does not expose the "
        f"input of its output head; expected a model that calls get_output_embeddings() on the "
        f"hidden states of all tokens"
    )


def _means(values: Tensor, counts_B: Tensor) -> Tensor:
    """Average values [M] or [M, D] of label tokens over each example."""
    # "unsafe": no check of the lengths, which would wait for the device.
    sums = torch.segment_reduce(values.float(), "sum", lengths=counts_B, unsafe=True)
    return sums / counts_B.view(-1, *[1] * (values.dim() - 1))


def _distances(seen: OverVocabulary) -> Tensor:
    """Compute ||p - onehot(y)||_2 [M] as sqrt((1 - p_y)^2 + sum of the other p^2).

    1 - 2 p_y + sum p^2 is equal, but cancels if p_y is near 1.
    """
    assert seen.log_squares_M is not None
    others_M = (seen.log_squares_M - 2 * seen.log_sum_M).exp()
    return (torch.expm1(-seen.losses_M).square() + others_M).sqrt()


def _ranks(blocks: Iterable[Tensor], seen: OverVocabulary) -> Tensor:
    """Compute min(rank, MOST_RANK) [M], from as many logits at once as the loss is.

    A rank needs the label token's logit before it counts those above, so the logits are made again.
    """
    above_M = sum((logits_MV > seen.target_M[:, None]).sum(1) for logits_MV in blocks)
    return (above_M + torch.ones_like(seen.target_M)).clamp(max=MOST_RANK)


def _residuals(
    head: nn.Linear, hidden_MD: Tensor, seen: OverVocabulary, targets_M: Tensor
) -> Iterable[Tensor]:
    """Yield p - onehot(y) [M, V], one block of the vocabulary at a time."""
    first = 0
    for logits_MV in logits_by_block(head, hidden_MD):
        place_M, inside_M = places_in_block(targets_M, first, logits_MV)
        probabilities_MV = (logits_MV - seen.log_sum_M[:, None]).exp()
        yield probabilities_MV.scatter_add(1, place_M[:, None], -inside_M.float()[:, None])
        first += logits_MV.shape[1]


def _gradient_norms(residuals: Iterable[Tensor], hidden_MD: Tensor, counts: list[int]) -> Tensor:
    """Compute ||1/m sum_t r_t h_t^T||_F [B].

    Its square is 1/m^2 sum_ts (r_t . r_s) (h_t . h_s). This takes the products [m, m] of each
    example's label tokens, and never the gradient [V, D].
    """
    grams = [torch.zeros(m, m, device=hidden_MD.device) for m in counts]
    for block_MV in residuals:
        for gram_mm, rows_mV in zip(grams, block_MV.split(counts), strict=True):
            gram_mm.addmm_(rows_mV, rows_mV.T)
    norms = []
    for gram_mm, rows_mD in zip(grams, hidden_MD.float().split(counts), strict=True):
        squared = (gram_mm.double() * (rows_mD @ rows_mD.T)).sum()
        norms.append(squared.clamp(min=0).sqrt() / len(rows_mD))
    return torch.stack(norms).float()


def _whole_pass(
    loss: LabelLoss,
    input_ids_BL: Tensor,
    places_M: Tensor,
    targets_M: Tensor,
    needed: set[str],
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Run a model that does more to its logits than the head.

    Returns logits [M, V], losses [M], the head's input [M, D], and a list with the residuals: the
    losses' gradient with respect to the head's output [M, V]. The last two are empty unless
    `features` or `grad_norm` is needed.
    """
    seen = {"input": torch.empty(0), "output": torch.empty(0)}

    def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        seen["input"], seen["output"] = inputs[0], output
        if "grad_norm" in needed:  # record what happens to the logits from here on
            torch.set_grad_enabled(True)
            seen["output"] = output.detach().requires_grad_()
        return seen["output"]

    # Tensors created in inference mode cannot have gradients.
    with torch.inference_mode(False), torch.no_grad():
        ids_BL, places_M, targets_M = (x.clone() for x in (input_ids_BL, places_M, targets_M))
        with loss.head.register_forward_hook(hook) if loss.head is not None else nullcontext():
            logits_BLV = loss.model(input_ids=ids_BL, use_cache=False).logits
        if needed and seen["input"].shape[:2] != ids_BL.shape:
            raise _no_head(loss, needed)
        logits_MV = _at(logits_BLV, places_M).float()
        losses_M = F.cross_entropy(logits_MV, targets_M, reduction="none")
        slopes = []
        if "grad_norm" in needed:
            [slope_BLV] = torch.autograd.grad(losses_M.sum(), seen["output"])
            slopes = [_at(slope_BLV, places_M).float()]
        hidden_MD = _at(seen["input"], places_M) if needed else seen["input"]
    return logits_MV.detach(), losses_M.detach(), hidden_MD, slopes


def _at(values_BLX: Tensor, places_M: Tensor) -> Tensor:
    """Pick values at places of the flattened tokens, on the places' device."""
    return values_BLX.to(places_M.device).flatten(0, 1).index_select(0, places_M)
