"""The work of a scoring actor: losses of examples under one model, and signals."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from torch import Tensor

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.models.batch import Example, examples_of
from s2l_ray.models.feed import label_batches
from s2l_ray.models.held import HeldModel
from s2l_ray.models.loading import explain_out_of_memory
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.signals import signals_of, width_of_features
from s2l_ray.scoring import CACHED_BYTES
from s2l_ray.store import Part, Store, schemas

CPU_TOKENS_PER_BATCH = 2048  # small enough for the activations between two layers to stay in cache
GPU_TOKENS_PER_BATCH = 8192
RESULTS_ON_DEVICE = 1 << 26  # bytes that wait there for the end of a part

Labelled = tuple[pa.Table, list[Example]]  # the examples that have a label token


class Scorer:
    """Holds models, and the token parts that it has read. Reads the next part while it scores."""

    def __init__(self, store: Store, config: TrajectoriesConfig) -> None:
        self.store, self.config = store, config
        self.held = HeldModel(store, config.workers, dtype=config.dtype, tf32=config.tf32)
        on_gpu = self.held.device.type == "cuda"
        default = GPU_TOKENS_PER_BATCH if on_gpu else CPU_TOKENS_PER_BATCH
        self.tokens_per_batch = config.tokens_per_batch or default
        self.cache: dict[tuple[str, str], pa.Table] = {}
        self.reader = ThreadPoolExecutor(1)  # all reading is here, so the cache needs no lock
        self.coming: dict[tuple[str, str], Future[Labelled]] = {}

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        if known := unit.get("known"):
            folder, part = known
            losses = self.store.read_part(folder, part, schemas.LOSSES.names)
            return losses, {"made_of": part.stats["made_of"]}
        self.prepare(unit)
        loss = self.held.load(unit["model"])
        labelled = self.coming.pop((unit["tokens"], unit["part"].file)).result()
        doing = f"scoring batches of {self.tokens_per_batch} tokens"
        with explain_out_of_memory(unit["model"], doing, "lower trajectories.tokens_per_batch"):
            try:
                table = self._score(loss, labelled, unit.get("signals", ()))
            except ValueError as error:
                raise ValueError(f"{unit['model']}, {unit['part'].file}: {error}") from None
        return table, {"made_of": self.held.checksum}

    def prepare(self, unit: dict[str, Any]) -> None:
        """Begin to read the tokens and the model of a unit, which is probably the next."""
        if unit.get("known"):
            return
        key = unit["tokens"], unit["part"].file
        if key not in self.coming:
            self.coming[key] = self.reader.submit(self._read, unit["tokens"], unit["part"])
        if not self.store.is_local and unit["model"] not in self.held.held:
            self.reader.submit(self.store.download, unit["model"])  # an error shows when it is used
        if len(self.coming) > 2:  # another actor did a unit that was read here
            del self.coming[next(iter(self.coming))]

    def _read(self, folder: str, part: Part) -> Labelled:
        table = self.cache.pop((folder, part.file), None)
        if table is None:
            table = self.store.read_part(folder, part)
        self.cache[folder, part.file] = table  # the last to be dropped
        while sum(cached.nbytes for cached in self.cache.values()) > CACHED_BYTES:
            del self.cache[next(iter(self.cache))]
        return labelled_of(table)

    def _score(self, loss: LabelLoss, labelled: Labelled, signals: Sequence[str]) -> pa.Table:
        while True:
            try:
                return score_labelled(
                    labelled, loss, tokens_per_batch=self.tokens_per_batch, signals=signals
                )
            except torch.OutOfMemoryError:
                if not self.held.drop(keep=1):
                    raise


def labelled_of(tokens: pa.Table) -> Labelled:
    """Return the rows of a table of tokens that have a label token, as a table and as arrays."""
    tokens = tokens.filter(pa.compute.greater(tokens["num_label_tokens"], 0))
    return tokens, examples_of(tokens)


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
    return score_labelled(
        labelled_of(tokens), loss, tokens_per_batch=tokens_per_batch, signals=signals
    )


def score_labelled(
    labelled: Labelled, loss: LabelLoss, *, tokens_per_batch: int, signals: Sequence[str]
) -> pa.Table:
    """Like score_table, for rows that all have a label token."""
    tokens, examples = labelled
    names = ["loss", *sorted(signals)]
    widths = {name: width_of_features(loss) if name == "features" else 1 for name in names}
    found = {name: np.empty((len(examples), D), np.float32) for name, D in widths.items()}
    rows_at_once, results, waiting = list[np.ndarray](), list[dict[str, Tensor]](), 0

    def take_over() -> None:
        """Copy the results of the last batches to the host, which waits for the device."""
        if results:
            rows = np.concatenate(rows_at_once)
            for name in names:
                values = torch.cat([each[name] for each in results]).cpu().numpy()
                found[name][rows] = values.reshape(len(rows), -1)
        rows_at_once.clear()
        results.clear()

    loss.eval()
    with torch.inference_mode():
        for rows, batch in label_batches(examples, tokens_per_batch, loss.model.device):
            rows_at_once.append(rows)
            results.append(signals_of(loss, batch, signals))
            waiting += 4 * len(rows) * sum(widths.values())
            if waiting > RESULTS_ON_DEVICE:
                take_over()
                waiting = 0
        take_over()
    _check_finite(tokens, found)
    columns = {name: pa.array(values_ND.reshape(-1)) for name, values_ND in found.items()}
    if "features" in columns:
        columns["features"] = pa.FixedSizeListArray.from_arrays(
            columns["features"], widths["features"]
        )
    columns |= {name: tokens[name] for name in ("example_id", "num_label_tokens")}
    return pa.table(columns, schema=schemas.signals(signals, widths.get("features", 0)))


def _check_finite(tokens: pa.Table, found: dict[str, np.ndarray]) -> None:
    for name, values_ND in found.items():
        bad = np.flatnonzero(~np.isfinite(values_ND).all(axis=1))
        if len(bad):
            value = values_ND[bad[0]][~np.isfinite(values_ND[bad[0]])][0]
            raise ValueError(
                f"example_id {tokens['example_id'][bad[0]]}: the {name} is {value}; expected a "
                f"finite number ({len(bad)} such examples in this part). If its "
                "training diverged, lower learning_rate"
            )
