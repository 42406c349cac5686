"""What a training starts from: the initial model, or a resume point.

Each node downloads what its workers share once. A worker of a training with as many workers as
before downloads its own pieces alone.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import torch.distributed as dist
from transformers import PreTrainedModel

from s2l_ray.models.adapters import model_with_adapters
from s2l_ray.models.loading import Placing, initial_model, load_model
from s2l_ray.models.origin import on_this_node
from s2l_ray.store import Part
from s2l_ray.training.engines import Engine, rank_and_world
from s2l_ray.training.job import TrainingJob
from s2l_ray.training.pieces import SavedPieces, file_of
from s2l_ray.training.resume import last_resume_point


class Start:
    """The newest complete resume point of a training; `point` is "" if there is none."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.point, self.state = last_resume_point(job.store, job.folder)
        self.folder = f"{job.folder}/resume/{self.point}"
        manifest = job.store.manifest(self.folder) if self.point else None
        self.parts = manifest.parts if manifest else []
        self.copies = list[str]()  # on this node

    def model(self, tokenizer: Any, placing: Placing) -> PreTrainedModel:
        """Load the model that `restore` then completes."""
        weights, state, job = self.state.weights, self.state, self.job
        if weights:
            local = self._download(f"{job.folder}/{weights}", state.weight_files)
            return load_model(local, placing=placing)
        if whole := [part for part in self.parts if not _is_pieces(part)]:  # of version 0.1
            return load_model(self._download(self.folder, whole), placing=placing)
        origin = on_this_node(job.store, job.config.model, job.origin)
        if job.config.lora is not None:
            return model_with_adapters(job.config, origin, seed=job.seed, sharding=placing.sharding)
        return initial_model(origin, tokenizer, seed=job.seed, placing=placing)

    def restore(self, engine: Engine) -> None:
        """Set the optimizer and the weights that the model lacks. All workers must call it."""
        pieces = {part.file: part for part in self.parts if _is_pieces(part)}
        if not pieces:
            return
        rank, world = rank_and_world()
        own = engine.partitioned and self.state.workers == world

        def fetch(names: list[str]) -> str:
            return self._download(self.folder, [pieces[name] for name in names])

        saved = SavedPieces(fetch, sorted(pieces), file_of(rank) if own else "")
        engine.restore(saved, self.state.step)

    def drop_copies(self) -> None:
        """Remove the copies on this node when all its workers have read them. All must call it."""
        if rank_and_world()[1] > 1:
            dist.barrier()
        for copy in self.copies:
            self.job.store.discard(copy)

    def _download(self, folder: str, parts: list[Part]) -> str:
        named = {PurePosixPath(part.file).name: part for part in parts}
        self.copies.append(self.job.store.download(folder, files=named, stage=self.folder))
        return self.copies[-1]


def _is_pieces(part: Part) -> bool:
    return part.file.startswith("optimizer")
