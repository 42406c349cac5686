"""Record each example's loss in another trainer: Hugging Face's Trainer, TRL's SFTTrainer, and what
is built on them, or a loop of your own. Needs neither Ray nor a run directory.

    trainer.add_callback(LossRecorder("losses/"))

`s2l-ray import-losses` makes trajectories of the folder. It holds:

    losses/session-000-rank-00000-000000-<checksum>.arrow   key, point, step, loss, num_label_tokens
    rows/part-000000-<checksum>.arrow                       key, row, and example_id if there is one

A key is a hash of the example's tokens. So an example is known wherever it turns up: in a batch of
any order, in a packed row, on any rank, and again after a restart. Rows with the same tokens have
one key, and one loss. A session is one start of the training; where a restarted training repeats
steps, the losses of the later session count.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from transformers import TrainerCallback

from s2l_ray.config import StorageConfig
from s2l_ray.models.documents import IGNORED, documents_of, keys_of, keys_of_rows, losses_of
from s2l_ray.store import Store

logger = logging.getLogger(__name__)

LOSSES = pa.schema(
    [
        ("key", pa.int64()),
        ("point", pa.int64()),  # of the trajectory: the epoch in training, the step at saves
        ("step", pa.int64()),  # optimizer steps done before the loss was computed
        ("loss", pa.float32()),
        ("num_label_tokens", pa.int32()),
    ]
)

FLUSH_ROWS = 1 << 18  # of losses in memory, 7 MB, after which they are written
ROWS_AT_ONCE = 1 << 14  # of a dataset


class LossWriter:
    """Writes losses to a folder, from one process of a training.

    For a loop of your own: call `add` for each batch, and `flush` before each checkpoint and at the
    end. folder: a local path or `s3://bucket/prefix`. session: the number of this start of the
    training, the same on all ranks; by default the next one, which suits a single process.
    """

    def __init__(
        self,
        folder: str,
        *,
        rank: int = 0,
        session: int | None = None,
        storage: StorageConfig | None = None,
    ) -> None:
        self.store, self.rank = Store(folder, storage), rank
        self.session = next_session(self.store) if session is None else session
        self.files = self.rows = 0
        self.columns: dict[str, list[np.ndarray]] = {name: [] for name in LOSSES.names}

    def add(
        self,
        step: int,
        keys: Sequence[int] | np.ndarray,
        losses: Sequence[float] | np.ndarray,
        *,
        point: int | None = None,
        num_label_tokens: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Take the losses of a batch. keys: integers that identify the examples. step: optimizer
        steps done so far. point: which point of the trajectories it is; the step by default."""
        count = len(keys)
        if len(losses) != count:
            raise ValueError(f"losses: found {len(losses)}, expected {count}, one for each key")
        values = {
            "key": keys,
            "step": np.full(count, step),
            "point": np.full(count, step if point is None else point),
            "loss": losses,
            "num_label_tokens": np.zeros(count) if num_label_tokens is None else num_label_tokens,
        }
        for field in LOSSES:
            self.columns[field.name].append(
                np.asarray(values[field.name], field.type.to_pandas_dtype())
            )
        self.rows += count
        if self.rows >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has been added."""
        if not self.rows:
            return
        table = pa.table([np.concatenate(self.columns[n]) for n in LOSSES.names], schema=LOSSES)
        unit = f"session-{self.session:03d}-rank-{self.rank:05d}-{self.files:06d}"
        self.store.write_part(table, "losses", unit)
        self.columns = {name: [] for name in LOSSES.names}
        self.files, self.rows = self.files + 1, 0


class LossRecorder(TrainerCallback):
    """Records losses in Hugging Face's Trainer and what is built on it. Every rank writes.

    folder: a local path or `s3://bucket/prefix`.

    when: `"training"` records the losses that training computes anyway, one per example and epoch.
    They are of weights that move during the epoch, and of a model with dropout. `"saves"` scores
    the whole training set in eval mode whenever the trainer saves, as S2L does; that costs a
    forward pass of the training set per save. It needs the whole weights on each rank, so not
    DeepSpeed's ZeRO-3 and not FSDP.

    dataset: the tokenized training set, with `input_ids`, and `example_id` if you have ids of your
    own. Its order defines the row numbers. By default the set that the trainer reads; give it if
    that one is packed, or if an id column is to be kept: trainers remove it.
    """

    def __init__(
        self,
        folder: str,
        *,
        when: Literal["training", "saves"] = "training",
        dataset: Any = None,
        storage: StorageConfig | None = None,
    ) -> None:
        if when not in ("training", "saves"):
            raise ValueError(f"when: found {when!r}, expected 'training' or 'saves'")
        self.folder, self.when, self.dataset, self.storage = folder, when, dataset, storage
        self.writer: LossWriter | None = None
        self.hook: Any = None
        self.step = self.epoch = 0

    # -- the trainer's events

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, loader = kwargs["model"], kwargs["train_dataloader"]
        rank = args.process_index
        if self.when == "saves":
            _check_whole(model)
        store = Store(self.folder, self.storage)
        session = next_session(store) if rank == 0 else 0
        if dist.is_initialized():
            agreed = [session]
            dist.broadcast_object_list(agreed)
            session = agreed[0]
        self.writer = LossWriter(self.folder, rank=rank, session=session, storage=self.storage)
        if rank == 0 and not store.names("rows"):
            _write_rows(store, loader.dataset if self.dataset is None else self.dataset)
        self._note(state)
        if self.when == "training":
            self.hook = model.register_forward_hook(self._on_forward, with_kwargs=True)
        self.loader = loader

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._note(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Before the checkpoint: a training that is resumed from it does not repeat these steps.
        if control.should_save and self.writer is not None and self.when == "training":
            self.writer.flush()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.when == "saves":
            self._note(state)
            self._score(kwargs["model"], args.process_index, args.world_size)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.hook is not None:
            self.hook.remove()
        if self.writer is not None:
            self.writer.flush()

    # -- losses

    def _note(self, state: Any) -> None:
        self.step, self.epoch = state.global_step, int(state.epoch or 0)

    def _on_forward(self, model: Any, inputs: Any, batch: dict[str, Any], outputs: Any) -> None:
        labels_BL = batch.get("labels")
        if not model.training or labels_BL is None:
            return
        ids_BL = batch["input_ids"]
        documents = documents_of(ids_BL, batch.get("attention_mask"), batch.get("position_ids"))
        try:
            losses_D, counts_D = losses_of(outputs, labels_BL, documents)
        except ValueError as error:
            raise ValueError(
                f"LossRecorder: {error}: the trainer fuses its loss with the output head; turn "
                "that off, or record with when='saves'"
            ) from None
        self._add(keys_of(ids_BL, documents), losses_D, counts_D)

    def _add(self, keys_D: torch.Tensor, losses_D: torch.Tensor, counts_D: torch.Tensor) -> None:
        assert self.writer is not None
        labelled = (counts_D > 0).cpu().numpy()  # the others, and padding, have no loss
        keys, losses, counts = (x.cpu().numpy()[labelled] for x in (keys_D, losses_D, counts_D))
        self.writer.add(self.step, keys, losses, point=self.epoch, num_label_tokens=counts)

    def _score(self, model: Any, rank: int, world: int) -> None:
        """Score this rank's share of the training set, and write it."""
        # Imported here: recording during training needs none of it.
        from s2l_ray.models.loss import LabelLoss
        from s2l_ray.scoring.scorer import score_table

        assert self.writer is not None
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        training, trained = base.training, [p.requires_grad for p in base.parameters()]
        try:
            loss = LabelLoss(base).eval()
            for tokens in _tokens(self.loader, rank, world):
                scored = score_table(tokens, loss)
                self.writer.add(
                    self.step,
                    scored["example_id"].to_numpy(),
                    scored["loss"].to_numpy(),
                    num_label_tokens=scored["num_label_tokens"].to_numpy(),
                )
        finally:
            base.train(training)
            for parameter, before in zip(base.parameters(), trained, strict=True):
                parameter.requires_grad_(before)
        self.writer.flush()


def next_session(store: Store) -> int:
    """Return the number of the next start of a training that records into this folder."""
    numbers = [re.match(r"session-(\d+)-", name) for name in store.names("losses")]
    return max((int(match[1]) + 1 for match in numbers if match), default=0)


def _check_whole(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id") or type(parameter).__name__ == "DTensor":
            raise ValueError(
                f"LossRecorder: {name} is sharded over the ranks (ZeRO-3 or FSDP); scoring at "
                "saves needs whole weights on each rank: record with when='training'"
            )


def _write_rows(store: Store, dataset: Any) -> None:
    """Write which row of the dataset has which key."""
    columns = getattr(dataset, "column_names", None) or []
    if "input_ids" not in columns or "seq_lengths" in columns or not hasattr(dataset, "__len__"):
        why = "is packed" if "seq_lengths" in columns else "has no column input_ids, or no length"
        logger.warning(
            f"LossRecorder: the training set {why}, so its rows cannot be numbered; give "
            "`dataset`, the tokenized training set before packing, or import the losses by tokens"
        )
        return
    wanted = [name for name in ("input_ids", "example_id") if name in columns]
    rows = dataset.select_columns(wanted).with_format("arrow")
    for part, first in enumerate(range(0, len(rows), ROWS_AT_ONCE * 16)):
        table = rows[first : first + ROWS_AT_ONCE * 16]
        ids = table["input_ids"].combine_chunks()
        ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
        offsets = ids.offsets.to_numpy()
        keys = keys_of_rows(ids.flatten().to_numpy(), offsets)
        numbered = {"key": keys, "row": np.arange(first, first + len(keys))}
        if "example_id" in wanted:
            numbered["example_id"] = table["example_id"]
        store.write_part(pa.table(numbered), "rows", f"part-{part:06d}")


def _tokens(loader: Any, rank: int, world: int) -> Iterator[pa.Table]:
    """Yield this rank's share of the training set as tables of tokens (schemas.TOKENS), whose
    example_id is the key, as the trainer's own collator makes them."""
    from s2l_ray.store.schemas import TOKENS

    dataset, collate = loader.dataset, loader.collate_fn
    rows: list[dict[str, Any]] = []
    for row in range(rank, len(dataset), world):
        batch = collate([dataset[row]])
        ids_BL, labels_BL = batch["input_ids"], batch["labels"]
        documents = documents_of(ids_BL, batch.get("attention_mask"), batch.get("position_ids"))
        keys = keys_of(ids_BL, documents).tolist()
        for number, key in enumerate(keys):
            own = documents.index_BL == number
            mask = labels_BL[own] != IGNORED
            mask[0] = False
            rows.append(
                {
                    "example_id": key,
                    "input_ids": ids_BL[own].numpy(),
                    "loss_mask": mask.numpy(),
                    "num_label_tokens": int(mask.sum()),
                    "truncated": False,
                }
            )
        if len(rows) >= ROWS_AT_ONCE:
            yield pa.Table.from_pylist(rows, schema=TOKENS)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=TOKENS)
