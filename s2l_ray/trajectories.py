"""Per-example losses at checkpoints, and the trajectories made of them.

The restart unit of scoring is (checkpoint, part). A loss is the mean cross-entropy over the
example's label tokens, fp32 unless set, the model in eval mode; batches are cut inside one part by
its lengths, so the losses do not depend on how many actors there are. N examples, T checkpoints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.models import LabelLoss, load_model
from s2l_ray.store import LOSSES, Manifest, Part, Store
from s2l_ray.training import checkpoint_name, pad
from s2l_ray.units import run_units


def score(
    store: Store,
    tokens: Manifest,
    checkpoints: dict[int, str],
    config: TrajectoriesConfig,
    *,
    folder: str,
    fingerprint: str,
    label: str = "score",
) -> Manifest:
    """Losses of every example at every checkpoint.

    checkpoints: step -> folder of a model in Hugging Face format, below the run directory (or an
    absolute local path). Parts `step-000500/part-*`, schema `store.LOSSES`, rows as in `tokens`
    without the examples that have no label token. ValueError for a loss that is not finite.
    """
    units = [
        {"unit": f"step-{step:06d}/{part.unit}", "model": model, "part": part.__dict__}
        for step, model in sorted(checkpoints.items())
        for part in tokens.parts
    ]
    return run_units(
        store,
        units,
        _Scorer,
        (store, tokens.folder, config),
        folder=folder,
        fingerprint=fingerprint,
        label=label,
        workers=config.workers,
        max_workers=config.max_workers,
        info={"steps": sorted(checkpoints)},
    )


def score_table(tokens: pa.Table, loss: LabelLoss, *, tokens_per_batch: int = 8192) -> pa.Table:
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


def assemble(
    store: Store, corpus: Manifest, losses: Manifest, *, folder: str, fingerprint: str
) -> Manifest:
    """Trajectories from losses: example_id, source, losses float32[T] in step order,
    num_label_tokens; the part layout of the corpus."""
    steps = losses.info["steps"]
    by_unit = {part.unit: part for part in losses.parts}
    units = [
        {
            "unit": part.unit,
            "corpus": part.__dict__,
            "losses": [by_unit[f"step-{step:06d}/{part.unit}"].__dict__ for step in steps],
        }
        for part in corpus.parts
    ]
    return run_units(
        store,
        units,
        _Assemble,
        (store, corpus.folder, losses.folder),
        folder=folder,
        fingerprint=fingerprint,
        label="trajectories",
        info={"steps": steps},
    )


def checkpoints_of(training: Manifest) -> dict[int, str]:
    """step -> folder, of a training stage."""
    return {
        step: f"{training.folder}/{checkpoint_name(step)}" for step in training.info["checkpoints"]
    }


def losses_array(table: pa.Table) -> np.ndarray:
    """The column `losses` of a trajectories table as float32 [N, T]."""
    column = table["losses"].combine_chunks()
    width = column.type.list_size
    return column.flatten().to_numpy().reshape(-1, width)


class _Scorer:
    """One actor: holds the model of the checkpoint it scored last."""

    def __init__(self, store: Store, tokens_folder: str, config: TrajectoriesConfig) -> None:
        self.store, self.folder, self.config = store, tokens_folder, config
        self.device = torch.device("cuda" if config.workers.gpus_per_worker else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, int(config.workers.cpus_per_worker)))
        torch.backends.cuda.matmul.allow_tf32 = False
        self.model = ""
        self.loss: LabelLoss | None = None

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        if self.loss is None or unit["model"] != self.model:
            self.loss = None  # before the next one comes: two may not fit
            local = self.store.download(unit["model"])
            self.loss = LabelLoss(load_model(local, dtype=self.config.dtype).to(self.device))
            self.model = unit["model"]
        tokens = self.store.read_part(self.folder, Part(**unit["part"]))
        try:
            table = score_table(tokens, self.loss, tokens_per_batch=self.config.tokens_per_batch)
        except ValueError as error:
            raise ValueError(f"{unit['model']}, {unit['part']['file']}: {error}") from None
        return table, {}


class _Assemble:
    def __init__(self, store: Store, corpus_folder: str, losses_folder: str) -> None:
        self.store, self.corpus_folder, self.losses_folder = store, corpus_folder, losses_folder

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        corpus = self.store.read_part(
            self.corpus_folder, Part(**unit["corpus"]), ["example_id", "source"]
        )
        tables = [self.store.read_part(self.losses_folder, Part(**p)) for p in unit["losses"]]
        ids = tables[0]["example_id"]
        if any(not table["example_id"].equals(ids) for table in tables):
            raise ValueError(f"{unit['unit']}: the checkpoints' losses are of different examples")
        # Both are sorted by id; the corpus has, besides, the examples without a label token.
        places = pa.compute.index_in(ids, value_set=corpus["example_id"])
        if places.null_count:
            raise ValueError(f"{unit['unit']}: losses of {places.null_count} unknown examples")
        source = corpus["source"].take(places)
        losses_NT = np.stack([table["loss"].to_numpy() for table in tables], axis=1)
        losses = pa.FixedSizeListArray.from_arrays(
            pa.array(losses_NT.reshape(-1), pa.float32()), losses_NT.shape[1]
        )
        table = pa.table(
            {
                "example_id": ids,
                "source": source,
                "losses": losses,
                "num_label_tokens": tables[0]["num_label_tokens"],
            }
        )
        return table, {}


def _token_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Rows by falling length, cut into batches of at most so many padded tokens (or one row)."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches
