"""What workers write during a training: checkpoints to keep, and resume points."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from s2l_ray.store import Store
from s2l_ray.store.scratch import working_folder
from s2l_ray.training.checkpoints import checkpoint_name
from s2l_ray.training.engines import Engine, rank_and_world
from s2l_ray.training.job import TrainingJob
from s2l_ray.training.resume import TrainingState, resume_name, resume_point, resume_points

PUBLISHED = "publish"  # a checkpoint's files, in the working folder


def save(
    job: TrainingJob, engine: Engine, tokenizer: Any, state: TrainingState, *, publish: bool
) -> None:
    """Write a resume point and, if `publish`, a checkpoint. All workers must call it.

    Every worker writes its share of the optimizer's state, except after the last step. The first
    worker writes the weights too, and last the resume point's manifest. The complete resume point
    before this one is kept; others are removed.
    """
    store, folder = job.store, job.folder
    store.guard()
    point = resume_name(state.step, store.epoch)
    rank, world = rank_and_world()
    if rank == 0:
        # What an interrupted run left here may be of another number of workers.
        store.remove(folder, "resume", point)
    if world > 1:
        dist.barrier()
    with working_folder() as local:
        engine.save_model(local)  # gathers from all workers, writes on the first
        if world > 1:
            dist.barrier()  # DeepSpeed's own groups wait only ten minutes
        if state.step < job.steps:
            engine.save_optimizer(local)
        lora = job.config.lora
        if publish and lora is not None and lora.merge:
            engine.save_merged(str(Path(local, PUBLISHED)))
        if rank == 0 and publish:
            _publish(store, folder, local, tokenizer, state)
        saved: list[Any] = [store.upload(local, folder, "resume", point)]
    if world > 1:
        mine, saved = saved[0], [None] * world
        dist.all_gather_object(saved, mine)  # returns when every worker has written
    if rank == 0:
        parts = [part for files in saved for part in files]
        store.commit(f"{folder}/resume/{point}", job.fingerprint, parts, state.as_info())
        _remove_others(store, folder, point)


def _publish(store: Store, folder: str, local: str, tokenizer: Any, state: TrainingState) -> None:
    """Copy the weights in `local` to a checkpoint, with the tokenizer, and add it to the state."""
    published = Path(local, PUBLISHED)
    if not published.exists():  # otherwise it has the merged weights
        published.mkdir()
        for kind in ("*.json", "model*.safetensors", "adapter_model.safetensors"):
            for file in Path(local).glob(kind):
                shutil.copy(file, published)
    tokenizer.save_pretrained(published)
    name = checkpoint_name(state.step)
    for part in store.upload(published, folder, name):
        path = f"{name}/{part.file}"
        state.files.append(replace(part, unit=path, file=path))
    state.checkpoints.append(state.step)


def _remove_others(store: Store, folder: str, point: str) -> None:
    """Remove all resume points but this one and the complete one before it.

    Later ones are left from a run whose training was resumed before them.
    """
    names = resume_points(store, folder)
    older = names[names.index(point) + 1 :]
    complete = (name for name in older if _is_complete(store, folder, name))
    others = {*names} - {point, next(complete, point)}
    store.guard()
    for name in others:
        store.remove(folder, "resume", name)


def _is_complete(store: Store, folder: str, name: str) -> bool:
    manifest, fault = resume_point(store, folder, name)
    return manifest is not None and fault is None
