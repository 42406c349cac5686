"""The work of a scoring actor: losses of examples under one model, and signals."""

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
from s2l_ray.store import Part, Store, schemas

CPU_TOKENS_PER_BATCH = 2048  # small enough for the activations between two layers to stay in cache
GPU_TOKENS_PER_BATCH = 8192
CACHED_BYTES = 1 << 28  # of token parts, which the next checkpoint needs again


class Scorer:
    """Holds the model of the last checkpoint and the token parts it has read."""

    def __init__(self, store: Store, config: TrajectoriesConfig) -> None:
        self.store, self.config = store, config
        self.held = HeldModel(store, config.workers, dtype=config.dtype)
        on_gpu = self.held.device.type == "cuda"
        default = GPU_TOKENS_PER_BATCH if on_gpu else CPU_TOKENS_PER_BATCH
        self.tokens_per_batch = config.tokens_per_batch or default
        self.cache: dict[tuple[str, str], pa.Table] = {}

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        if known := unit.get("known"):
            folder, part = known
            losses = self.store.read_part(folder, part, schemas.LOSSES.names)
            return losses, {"made_of": part.stats["made_of"]}
        loss = self.held.load(unit["model"])
        tokens = self._tokens(unit["tokens"], unit["part"])
        doing = f"scoring batches of {self.tokens_per_batch} tokens"
        with explain_out_of_memory(unit["model"], doing, "lower trajectories.tokens_per_batch"):
            try:
                table = score_table(
                    tokens,
                    loss,
                    tokens_per_batch=self.tokens_per_batch,
                    signals=unit.get("signals", ()),
                )
            except ValueError as error:
                raise ValueError(f"{unit['model']}, {unit['part'].file}: {error}") from None
        return table, {"made_of": self.held.checksum}

    def _tokens(self, folder: str, part: Part) -> pa.Table:
        if (folder, part.file) in self.cache:
            return self.cache[folder, part.file]
        table = self.store.read_part(folder, part)
        if sum(cached.nbytes for cached in self.cache.values()) + table.nbytes <= CACHED_BYTES:
            self.cache[folder, part.file] = table
        return table


def score_table(
    tokens: pa.Table,
    loss: LabelLoss,
    *,
    tokens_per_batch: int = CPU_TOKENS_PER_BATCH,
    signals: Sequence[str] = (),
) -> pa.Table:
    """Return losses and signals of a table of tokens under one model, on the model's device.

    Schema `schemas.signals`; rows in the same order, without the examples that have no label token.
    Long examples go first: if memory is too small, the first batch shows it. ValueError if a number
    is not finite.
    """
    tokens = tokens.filter(pa.compute.greater(tokens["num_label_tokens"], 0))
    examples = examples_of(tokens)
    device = next(loss.parameters()).device
    names = ["loss", *sorted(signals)]
    widths = {name: width_of_features(loss) if name == "features" else 1 for name in names}
    found = {name: np.empty((len(examples), D), np.float32) for name, D in widths.items()}
    loss.eval()
    with torch.inference_mode():
        for rows in token_batches(examples, tokens_per_batch):
            batch = pad([examples[row] for row in rows], device)
            for name, tensor in signals_of(loss, *batch, signals).items():
                found[name][rows] = tensor.cpu().numpy().reshape(len(rows), -1)
    for name, values_ND in found.items():
        bad = np.flatnonzero(~np.isfinite(values_ND).all(axis=1))
        if len(bad):
            value = values_ND[bad[0]][~np.isfinite(values_ND[bad[0]])][0]
            raise ValueError(
                f"example_id {tokens['example_id'][bad[0]]}: the {name} is {value}; expected a "
                f"finite number ({len(bad)} such examples in this part)"
            )
    columns = {name: pa.array(values_ND.reshape(-1)) for name, values_ND in found.items()}
    if "features" in columns:
        columns["features"] = pa.FixedSizeListArray.from_arrays(
            columns["features"], widths["features"]
        )
    columns |= {name: tokens[name] for name in ("example_id", "num_label_tokens")}
    return pa.table(columns, schema=schemas.signals(signals, widths.get("features", 0)))
