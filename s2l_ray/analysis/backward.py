"""Gradients of examples' losses with respect to the weights that training changes: all of them,
or adapters. The workers' side.

An example's loss is the mean cross-entropy over its label tokens, the model in eval mode, fp32.
N examples, B examples of a batch, L tokens, M label tokens of a batch, P weights of the model,
D width of a sketch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from s2l_ray.analysis.gradient_parts import SketchBatch, Weighted, Window, members
from s2l_ray.config import WorkersConfig
from s2l_ray.models.batch import Example, examples_of, pad, token_batches
from s2l_ray.models.held import HeldModel
from s2l_ray.models.loading import explain_out_of_memory
from s2l_ray.models.loss import LabelLoss
from s2l_ray.store import Store
from s2l_ray.store.schemas import GRADIENT_SUM, sketches

TOKENS_PER_BATCH = 2048  # padded, in a forward and backward pass

WIDTH = 4096  # of a sketch

LARGER = "use a larger GPU"


class Gradients:
    """The work of one actor: makes parts with gradients of one checkpoint, which it holds.

    A unit has a SketchBatch under "batch" or a Window under "window". sets: those of the windows.
    """

    def __init__(
        self,
        store: Store,
        checkpoint: str,
        folder: str,
        sets: Sequence[Weighted],
        seed: int,
        workers: WorkersConfig,
    ) -> None:
        self.store, self.checkpoint, self.folder = store, checkpoint, folder
        self.sets, self.seed = sets, seed
        self.held = HeldModel(store, workers, advice=LARGER)

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        loss = self.held.load(self.checkpoint)
        with explain_out_of_memory(self.checkpoint, "computing gradients", LARGER):
            if "batch" in unit:
                return self._sketch(loss, unit["batch"]), {}
            return self._sum(loss, unit["window"])

    def _sketch(self, loss: LabelLoss, batch: SketchBatch) -> pa.Table:
        """Sketch the examples of a batch that have a label token (schema `sketches`)."""
        tokens = self.store.read_part(self.folder, batch.part)
        at = pc.index_in(pa.array(batch.example_id), value_set=tokens["example_id"])
        if at.null_count:
            missing = batch.example_id[at.is_null().to_numpy(zero_copy_only=False)][0]
            address = self.store.address(self.folder, batch.part.file)
            raise ValueError(f"{address}: example_id {missing} is in the clusters, but not here")
        tokens = tokens.take(at)
        labelled = np.flatnonzero(tokens["num_label_tokens"].to_numpy() > 0)
        norm_N, sketch_ND = sketched(loss, examples_of(tokens.take(labelled)), seed=self.seed)
        bad = np.flatnonzero(~np.isfinite(norm_N))
        if len(bad):
            raise ValueError(
                f"{self.checkpoint}: the norm of the gradient of example_id "
                f"{batch.example_id[labelled[bad[0]]]} is {norm_N[bad[0]]}, expected a finite "
                f"number"
            )
        flat = pa.array(sketch_ND.reshape(-1))
        return pa.Table.from_arrays(
            [
                pa.array(batch.rows[labelled]),
                pa.array(norm_N),
                pa.FixedSizeListArray.from_arrays(flat, WIDTH),
            ],
            schema=sketches(WIDTH),
        )

    def _sum(self, loss: LabelLoss, window: Window) -> tuple[pa.Table, dict[str, Any]]:
        """sum_i weight_i gradient_i over a window, a row per weight of the model."""
        chosen = None if window.set_index is None else self.sets[window.set_index]
        tables, weights = [], []
        for part, first, rows in window.slices:
            table, weight_N = members(self.store.read_part(self.folder, part), chosen)
            tables.append(table.slice(first, rows))
            weights.append(weight_N[first : first + rows])
        tokens, weight_N = pa.concat_tables(tables), np.concatenate(weights)
        gradient_P = summed(loss, examples_of(tokens), weight_N)
        if not np.isfinite(gradient_P).all():
            first, last = (tokens["example_id"][row].as_py() for row in (0, -1))
            raise ValueError(
                f"{self.checkpoint}: the gradient over {tokens.num_rows:,} examples, from "
                f"example_id {first} to {last}, is not finite"
            )
        stats = {"examples": tokens.num_rows, "weight": float(weight_N.sum())}
        return pa.Table.from_arrays([pa.array(gradient_P)], schema=GRADIENT_SUM), stats


def summed(
    loss: LabelLoss,
    examples: list[Example],
    weights_N: np.ndarray,
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> np.ndarray:
    """Compute sum_i weight_i gradient_i, float32 [P]: the trained weights in their order.

    Every example must have a label token. Makes one backward pass per batch of padded examples.
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
        if weights.requires_grad
    ]
    gradient_P = torch.cat([gradient.reshape(-1) for gradient in gradients]).cpu().numpy()
    loss.zero_grad()  # the model stays in memory; its gradients need not
    return gradient_P


def sketched(
    loss: LabelLoss, examples: list[Example], *, seed: int, width: int = WIDTH
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the norm of each example's gradient, float32 [N], and a count sketch, float32 [N, D].

    Each weight goes to one of D sums with a random sign, both functions of the seed (Charikar,
    Chen, Farach-Colton 2002). Sketches keep inner products without bias, with a variance of at most
    (|x|^2 |y|^2 + <x, y>^2) / D (Weinberger et al. 2009, arXiv 0902.2206, lemma 2). The error of a
    cosine then has a standard deviation of at most sqrt((1 + cos^2) / D): 0.016 to 0.022 at 4096.
    Takes 4 bytes per weight besides the model and one gradient.
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
    """Draw the sum of each weight, int32: one of `width` to add, or of as many to subtract."""
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randint(
            2 * width, (weights.numel(),), generator=random, dtype=torch.int32
        ).to(weights.device)
        for weights in parameters
    ]  # fmt: skip
