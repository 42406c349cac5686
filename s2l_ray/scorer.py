"""Losses of examples under one model: the work of a scoring actor. M label tokens of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.models import LabelLoss, load_model, pad
from s2l_ray.store import LOSSES, Part, Store, mark_of_folder

KEPT_BYTES = 1 << 30  # of token parts in memory, which the next checkpoint needs again


class Scorer:
    """One actor: holds the model of the checkpoint it scored last, and the parts it has read."""

    def __init__(self, store: Store, config: TrajectoriesConfig) -> None:
        self.store, self.config = store, config
        self.device = torch.device("cuda" if config.workers.gpus_per_worker else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, int(config.workers.cpus_per_worker)))
        # What a batch leaves between two layers stays in a CPU's caches, and fills a GPU.
        default = 8192 if self.device.type == "cuda" else 2048
        self.tokens_per_batch = config.tokens_per_batch or default
        torch.backends.cuda.matmul.allow_tf32 = False
        self.model = self.mark = ""
        self.loss: LabelLoss | None = None
        self.kept: dict[tuple[str, str], pa.Table] = {}

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        if self.loss is None or unit["model"] != self.model:
            self.loss = None  # before the next one comes: two may not fit
            local = self.store.download(unit["model"])
            self.loss = LabelLoss(load_model(local, dtype=self.config.dtype).to(self.device))
            self.model, self.mark = unit["model"], mark_of_folder(local)
        tokens = self._tokens(unit["tokens"], Part(**unit["part"]))
        try:
            table = score_table(tokens, self.loss, tokens_per_batch=self.tokens_per_batch)
        except ValueError as error:
            raise ValueError(f"{unit['model']}, {unit['part']['file']}: {error}") from None
        return table, {"made_of": self.mark}

    def _tokens(self, folder: str, part: Part) -> pa.Table:
        if (folder, part.file) in self.kept:
            return self.kept[folder, part.file]
        table = self.store.read_part(folder, part)
        if sum(kept.nbytes for kept in self.kept.values()) + table.nbytes <= KEPT_BYTES:
            self.kept[folder, part.file] = table
        return table


def score_table(tokens: pa.Table, loss: LabelLoss, *, tokens_per_batch: int = 2048) -> pa.Table:
    """Losses of a table of tokens (schema `store.TOKENS`) under one model, on the model's device.

    Same order as the rows; examples without a label token are left out. Returns the schema
    `store.LOSSES`. Longest first, so that memory runs out at once or never.
    """
    tokens = tokens.filter(pa.compute.greater(tokens["num_label_tokens"], 0))
    examples = [
        (np.asarray(ids, np.int64), np.asarray(mask, bool))
        for ids, mask in zip(
            tokens["input_ids"].to_numpy(), tokens["loss_mask"].to_numpy(), strict=True
        )
    ]
    lengths = np.array([len(ids) for ids, _ in examples], dtype=np.int64)
    counts = tokens["num_label_tokens"].to_numpy()
    device = next(loss.parameters()).device
    means = np.empty(len(examples), np.float32)
    loss.eval()
    with torch.inference_mode():
        for rows in _token_batches(lengths, tokens_per_batch):
            losses_M = loss(*pad([examples[row] for row in rows], device))
            sums = torch.segment_reduce(
                losses_M.float(), "sum", lengths=torch.from_numpy(counts[rows]).long().to(device)
            )
            means[rows] = sums.cpu().numpy() / counts[rows]
    if not np.isfinite(means).all():
        bad = int(np.flatnonzero(~np.isfinite(means))[0])
        raise ValueError(
            f"example_id {tokens['example_id'][bad]}: the loss is {means[bad]}, a finite number "
            f"is wanted ({(~np.isfinite(means)).sum()} such examples in this part)"
        )
    columns = [tokens["example_id"], pa.array(means), tokens["num_label_tokens"]]
    return pa.Table.from_arrays(columns, schema=LOSSES)


def _token_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Rows by falling length, cut into batches of at most so many padded tokens (or one row)."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches
