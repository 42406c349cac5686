"""Losses of examples under one model, and details: the work of a scoring actor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.models.batch import examples_of, pad, token_batches
from s2l_ray.models.held import HeldModel
from s2l_ray.models.loading import explain_out_of_memory
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.signals import signals_of, width_of_features
from s2l_ray.store import Part, Store
from s2l_ray.store.schemas import LOSSES, signals

TOKENS_PER_BATCH = 2048  # on a CPU: what a batch leaves between two layers stays in its caches
KEPT_BYTES = 1 << 28  # of token parts in memory, which the next checkpoint needs again


class Scorer:
    """One actor: holds the model of the checkpoint it scored last, and the parts it has read."""

    def __init__(self, store: Store, config: TrajectoriesConfig) -> None:
        self.store, self.config = store, config
        self.held = HeldModel(store, config.workers, dtype=config.dtype)
        default = 8192 if self.held.device.type == "cuda" else TOKENS_PER_BATCH
        self.tokens_per_batch = config.tokens_per_batch or default
        self.kept: dict[tuple[str, str], pa.Table] = {}

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        if known := unit.get("losses"):
            part = known["part"]
            losses = self.store.read_part(known["folder"], part, LOSSES.names)
            return losses, {"made_of": part.stats["made_of"]}
        loss = self.held.load(unit["model"])
        tokens = self._tokens(unit["tokens"], unit["part"])
        details = unit.get("details", ())
        doing = f"scoring batches of {self.tokens_per_batch} tokens"
        with explain_out_of_memory(unit["model"], doing, "lower trajectories.tokens_per_batch"):
            try:
                table = score_table(
                    tokens, loss, tokens_per_batch=self.tokens_per_batch, details=details
                )
            except ValueError as error:
                raise ValueError(f"{unit['model']}, {unit['part'].file}: {error}") from None
        return table, {"made_of": self.held.checksum}

    def _tokens(self, folder: str, part: Part) -> pa.Table:
        if (folder, part.file) in self.kept:
            return self.kept[folder, part.file]
        table = self.store.read_part(folder, part)
        if sum(kept.nbytes for kept in self.kept.values()) + table.nbytes <= KEPT_BYTES:
            self.kept[folder, part.file] = table
        return table


def score_table(
    tokens: pa.Table,
    loss: LabelLoss,
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    details: Sequence[str] = (),
) -> pa.Table:
    """Losses of a table of tokens (schema `store.TOKENS`) under one model, on the model's device.

    Same order as the rows; examples without a label token are left out. Returns the schema
    `store.LOSSES`, and after it the columns of `details` (details.py) by name. Longest first, so
    that memory runs out at once or never. ValueError for what is not finite.
    """
    tokens = tokens.filter(pa.compute.greater(tokens["num_label_tokens"], 0))
    examples = examples_of(tokens)
    device = next(loss.parameters()).device
    names = ["loss", *sorted(details)]
    widths = {name: width_of_features(loss) if name == "features" else 1 for name in names}
    found = {name: np.empty((len(examples), D), np.float32) for name, D in widths.items()}
    loss.eval()
    with torch.inference_mode():
        for rows in token_batches(examples, tokens_per_batch):
            batch = pad([examples[row] for row in rows], device)
            for name, tensor in signals_of(loss, *batch, details).items():
                found[name][rows] = tensor.cpu().numpy().reshape(len(rows), -1)
    for name, values_ND in found.items():
        bad = np.flatnonzero(~np.isfinite(values_ND).all(axis=1))
        if len(bad):
            value = values_ND[bad[0]][~np.isfinite(values_ND[bad[0]])][0]
            raise ValueError(
                f"example_id {tokens['example_id'][bad[0]]}: the {name} is {value}, a finite "
                f"number is wanted ({len(bad)} such examples in this part)"
            )
    columns = {name: pa.array(values_ND.reshape(-1)) for name, values_ND in found.items()}
    if "features" in columns:
        columns["features"] = pa.FixedSizeListArray.from_arrays(
            columns["features"], widths["features"]
        )
    columns |= {name: tokens[name] for name in ("example_id", "num_label_tokens")}
    return pa.table(columns, schema=signals(details, widths.get("features", 0)))
