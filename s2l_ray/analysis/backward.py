"""Gradients of examples' losses with respect to all weights of a model: the workers' side of
gradients.py.

An example's loss is the mean cross-entropy over its label tokens, the model in eval mode, fp32.
N examples, B of a batch, L tokens, M label tokens of a batch, P weights of the model, D width of a
sketch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from s2l_ray.analysis.gradients import Weighted, Window
from s2l_ray.config import WorkersConfig
from s2l_ray.models.batch import Example, examples_of, pad, token_batches
from s2l_ray.models.held import HeldModel
from s2l_ray.models.loss import LabelLoss
from s2l_ray.store import Part, Store

TOKENS_PER_BATCH = 2048  # padded, in a forward and backward pass


def sum_window(
    window: Window,
    store: Store,
    checkpoint: str,
    folder: str,
    sets: Sequence[Weighted | None],
    workers: WorkersConfig,
) -> dict[int, tuple[int, float, np.ndarray]]:
    """By place the sets of examples (None: all) that have some in this window of a part of tokens:
    their number there, the sum of their weights, and sum_i weight_i gradient_i float32 [P].
    """
    tokens = store.read_part(folder, window.part).slice(window.first, window.rows)
    tokens = tokens.filter(pc.greater(tokens["num_label_tokens"], 0))
    loss, found = None, {}
    for place, chosen in enumerate(sets):
        mine, weights_N = tokens, np.ones(tokens.num_rows)
        if chosen is not None:
            at = pc.index_in(tokens["example_id"], value_set=pa.array(chosen.example_id))
            mine = tokens.filter(at.is_valid())
            weights_N = chosen.weight[at.drop_null().to_numpy()]
        if not mine.num_rows:
            continue
        loss = loss or _load(store, checkpoint, workers)
        gradient_P = summed(loss, examples_of(mine), weights_N)
        if not np.isfinite(gradient_P).all():
            raise ValueError(
                f"{checkpoint}: the gradient of rows {window.first + 1} to "
                f"{window.first + window.rows} of {store.address(folder, window.part.file)} is not "
                f"finite"
            )
        found[place] = mine.num_rows, float(weights_N.sum()), gradient_P
    return found


def sketch_examples(
    part: Part,
    example_id: np.ndarray,
    store: Store,
    checkpoint: str,
    folder: str,
    seed: int,
    workers: WorkersConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of those of these examples of a part that have a label token: which they are of those given,
    by place, and what `sketched` gives of them."""
    tokens = store.read_part(folder, part)
    at = pc.index_in(pa.array(example_id), value_set=tokens["example_id"])
    if at.null_count:
        missing = example_id[at.is_null().to_numpy(zero_copy_only=False)][0]
        address = store.address(folder, part.file)
        raise ValueError(f"{address}: example_id {missing} is not there, but in the clusters")
    tokens = tokens.take(at)
    labelled = np.flatnonzero(tokens["num_label_tokens"].to_numpy() > 0)
    loss = _load(store, checkpoint, workers)
    norm_N, sketch_ND = sketched(loss, examples_of(tokens.take(labelled)), seed=seed)
    bad = np.flatnonzero(~np.isfinite(norm_N))
    if len(bad):
        raise ValueError(
            f"{checkpoint}: the norm of the gradient of example_id {example_id[labelled[bad[0]]]} "
            f"is {norm_N[bad[0]]}, a finite number is wanted"
        )
    return labelled, norm_N, sketch_ND


def summed(
    loss: LabelLoss,
    examples: list[Example],
    weights_N: np.ndarray,
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> np.ndarray:
    """sum_i weight_i gradient_i, float32 [P], the model's parameters end to end in their order.

    Every example has a label token. Batches of padded examples, one backward pass each.
    """
    loss.eval().zero_grad()
    device = next(loss.parameters()).device
    for rows in token_batches(examples, tokens_per_batch):
        input_ids_BL, loss_mask_BL = pad([examples[row] for row in rows], device)
        counts_B = loss_mask_BL[:, 1:].sum(1)
        shares_B = torch.tensor(weights_N[rows], dtype=torch.float32, device=device) / counts_B
        losses_M = loss(input_ids_BL, loss_mask_BL)
        (losses_M * shares_B.repeat_interleave(counts_B)).sum().backward()
    gradients = [
        torch.zeros_like(weights) if weights.grad is None else weights.grad
        for weights in loss.parameters()
    ]
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).cpu().numpy()


def sketched(
    loss: LabelLoss, examples: list[Example], *, seed: int, width: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Of each example's gradient the norm, float32 [N], and a count sketch, float32 [N, D].

    Charikar, Chen, Farach-Colton 2002; here each weight goes to one of D sums with a random sign,
    both functions of the seed. Inner products are kept without bias, with a variance of at most
    (|x|^2 |y|^2 + <x, y>^2) / D (Weinberger et al. 2009, arXiv 0902.2206, lemma 2): the error of a
    cosine has a standard deviation of at most sqrt((1 + cos^2) / D), 0.016 to 0.022 at 4096.
    Besides the model and one gradient, 4 bytes for each weight are held.
    """
    loss.eval()
    parameters = [weights for weights in loss.parameters() if weights.requires_grad]
    device = parameters[0].device
    places = _places(parameters, seed, width)
    norm_N = np.empty(len(examples), np.float32)
    sketch_ND = np.empty((len(examples), width), np.float32)
    for row, example in enumerate(examples):
        mean = loss(*pad([example], device)).mean()
        gradients = torch.autograd.grad(mean, parameters, materialize_grads=True)
        sums = torch.zeros(2 * width, device=device)
        for place_P, gradient in zip(places, gradients, strict=True):
            sums.index_add_(0, place_P, gradient.reshape(-1))
        sketch_ND[row] = (sums[:width] - sums[width:]).cpu().numpy()
        norm_N[row] = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    return norm_N, sketch_ND


def _places(parameters: list[torch.nn.Parameter], seed: int, width: int) -> list[Tensor]:
    """The sum of each weight, int32: one of `width` that are added, or of as many subtracted."""
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randint(
            2 * width, (weights.numel(),), generator=random, dtype=torch.int32
        ).to(weights.device)
        for weights in parameters
    ]  # fmt: skip


def _load(store: Store, checkpoint: str, workers: WorkersConfig) -> LabelLoss:
    return HeldModel(store, workers, advice="use a larger GPU").load(checkpoint)
