"""What workers write during a training: checkpoints to keep, and resume points.

The training stands still only while its state is copied to CPU memory. A thread writes the copy to
the node's disk and from there into the run, and commits the resume point when all workers are done.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from s2l_ray.models.adapters import is_adapted
from s2l_ray.store import Part, Store
from s2l_ray.store.scratch import working_folder
from s2l_ray.training.checkpoints import checkpoint_name, remove_checkpoints
from s2l_ray.training.engines import Engine, rank_and_world
from s2l_ray.training.engines.shared import trained
from s2l_ray.training.job import SAVE_SECONDS, TrainingJob
from s2l_ray.training.pieces import Piece, copied, file_of, write
from s2l_ray.training.resume import TrainingState, resume_name, resume_point, resume_points


class Copy(NamedTuple):
    """A training's state in CPU memory."""

    state: TrainingState
    pieces: list[Piece]
    write_model: Callable[[str], None] | None  # into a folder; on the first worker, of a checkpoint


class Saver:
    """Saves the state of a training. All workers must call `save` and `wait` at the same steps.

    point: the resume point that the training went on from, "" if it began. Later ones, which an
    interrupted run left incomplete, are removed.
    """

    def __init__(self, job: TrainingJob, engine: Engine, tokenizer: Any, point: str) -> None:
        self.job, self.engine, self.tokenizer = job, engine, tokenizer
        self.rank, self.world = rank_and_world()
        lora = job.config.lora
        self._merge = lora is not None and lora.merge
        self.group: Any = None
        if self.rank == 0:
            _remove_later(job.store, job.folder, point)
        if self.world > 1:
            dist.barrier()
            # The thread's own: the training goes on in the other one meanwhile.
            self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=SAVE_SECONDS))
        self.thread = ThreadPoolExecutor(1, "save")
        self.under_way: Future[None] | None = None

    def save(self, state: TrainingState, *, publish: bool) -> None:
        """Copy the state, and upload it later: as a resume point and, if `publish`, a checkpoint.

        Waits for the save before, and raises its error. After the last step no resume point is
        needed, and its manifest alone is written.
        """
        self.wait()
        self.job.store.guard()
        more = state.step < self.job.steps
        state.weights = checkpoint_name(state.step) if publish and more and self._is_exact() else ""
        copy = Copy(
            replace(state, history=list(state.history)),
            [copied(piece, masters=not state.weights) for piece in self.engine.pieces()]
            if more
            else [],
            self.engine.copy_model(merge=self._merge) if publish else None,
        )
        self.under_way = self.thread.submit(self._upload, copy)

    def wait(self) -> None:
        """Return when the last save is complete; raise the error that this worker met in it."""
        under_way, self.under_way = self.under_way, None
        if under_way is not None:
            under_way.result()

    def _is_exact(self) -> bool:
        """Whether a checkpoint has the very weights that training goes on from."""
        if is_adapted(self.engine.loss.model):
            return False
        return all(each.dtype == torch.float32 for _, each in trained(self.engine.loss))

    def _upload(self, copy: Copy) -> None:
        store, folder = self.job.store, self.job.folder
        point = resume_name(copy.state.step, store.epoch)
        mine: list[Part] | None = None
        try:
            mine = self._write(copy, point)
        finally:
            saved = self._gather(mine)  # returns when every worker has written, or failed
            try:
                if self.rank == 0 and None not in saved:
                    parts = [part for files in saved for part in files]
                    info = copy.state.as_info()
                    store.commit(f"{folder}/resume/{point}", self.job.fingerprint, parts, info)
                    older = _remove_older(store, folder, point)
                    if self.job.keep is not None:
                        # Training goes back to the older point if the last is damaged.
                        kept = [*copy.state.checkpoints, *(older.checkpoints if older else ())]
                        remove_checkpoints(store, folder, kept)
            finally:
                self._gather(None)  # no worker begins the next save before

    def _write(self, copy: Copy, point: str) -> list[Part]:
        """Upload the copy; return the files of the resume point."""
        store, folder = self.job.store, self.job.folder
        with working_folder() as local:
            if copy.write_model is not None:
                name = checkpoint_name(copy.state.step)
                checkpoint = Path(local, name)
                checkpoint.mkdir()
                copy.write_model(str(checkpoint))
                self.tokenizer.save_pretrained(checkpoint)
                for part in store.upload(checkpoint, folder, name):
                    path = f"{name}/{part.file}"
                    copy.state.files.append(replace(part, unit=path, file=path))
                copy.state.checkpoints.append(copy.state.step)
                if self.job.keep is not None:
                    self._forget(copy.state, self.job.keep)
            if copy.pieces:
                write(copy.pieces, Path(local, file_of(self.rank)))
            return store.upload(local, folder, "resume", point)

    def _forget(self, state: TrainingState, keep: int) -> None:
        """Leave out of the state all checkpoints but the last. The lists are the training's own."""
        for step in state.checkpoints[:-keep]:
            gone = f"{checkpoint_name(step)}/"
            state.files[:] = [part for part in state.files if not part.file.startswith(gone)]
        del state.checkpoints[:-keep]

    def _gather(self, mine: list[Part] | None) -> list[Any]:
        if self.group is None:
            return [mine]
        saved = [None] * self.world
        dist.all_gather_object(saved, mine, group=self.group)
        return saved


def _remove_later(store: Store, folder: str, point: str) -> None:
    """Remove the resume points that are later than this one; all of them for ""."""
    names = resume_points(store, folder)
    for name in names[: names.index(point)] if point else names:
        store.remove(folder, "resume", name)


def _remove_older(store: Store, folder: str, point: str) -> TrainingState | None:
    """Remove the resume points before this one, but for the last complete one of them. Return its
    state.

    Later ones stay: other workers may already be writing the next.
    """
    names = resume_points(store, folder)
    older = names[names.index(point) + 1 :]
    found = ((name, *resume_point(store, folder, name)) for name in older)
    complete = ((name, manifest) for name, manifest, fault in found if manifest and not fault)
    last, manifest = next(complete, (None, None))
    for name in older:
        if name != last:
            store.remove(folder, "resume", name)
    return TrainingState.of(manifest.info) if manifest else None
