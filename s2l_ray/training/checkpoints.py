"""Checkpoints of a training: their steps, names and files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from typing import Any

import ray

from s2l_ray.config import ModelConfig, TrainingConfig
from s2l_ray.errors import Damaged
from s2l_ray.models.files import BASE_CONFIG, base_of, is_adapter, read_json
from s2l_ray.models.origin import keep_model, on_this_node
from s2l_ray.store import Manifest, Store
from s2l_ray.store.checksums import checksum_of_files
from s2l_ray.store.scratch import working_folder
from s2l_ray.store.store import DROPPED
from s2l_ray.store.views import TrainingView


def num_steps(config: TrainingConfig, num_examples: int) -> int:
    """Count the optimizer steps of a training on so many examples."""
    return config.max_steps or math.ceil(config.epochs * num_examples / config.global_batch_size)


def checkpoint_steps(config: TrainingConfig, steps: int) -> list[int]:
    """List the steps after which a checkpoint is kept. The last step is always one."""
    if config.checkpoint_every is not None:
        return sorted({*range(config.checkpoint_every, steps, config.checkpoint_every), steps})
    count = config.num_checkpoints or 1
    return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})


def checkpoint_name(step: int) -> str:
    """Name the folder of a checkpoint, below its training's."""
    return f"checkpoint-{step:06d}"


def checkpoints_of(training: Manifest) -> dict[int, str]:
    """Map each step to the folder of its checkpoint."""
    view = TrainingView(training)
    if view.folders:
        return dict(zip(view.checkpoints, view.folders, strict=True))
    return {step: f"{training.folder}/{checkpoint_name(step)}" for step in view.checkpoints}


def remove_checkpoints(store: Store, folder: str, but: Iterable[int]) -> None:
    """Remove the checkpoints of a training whose steps are not in `but`."""
    kept = {checkpoint_name(step) for step in but}
    for name in store.names(folder):
        if re.fullmatch(r"checkpoint-\d+", name) and name not in kept:
            store.guard()
            store.remove(folder, name)


def drop_checkpoints(store: Store, training: Manifest, keep: int) -> None:
    """Remove the checkpoints of a finished training but for the last `keep`."""
    steps = TrainingView(training).checkpoints
    kept = tuple(f"{checkpoint_name(step)}/" for step in steps[-keep:])
    files = {part.file for part in training.parts if not part.file.startswith(kept)}
    if files - store.dropped(training.folder):
        store.drop(training, files)
        remove_checkpoints(store, training.folder, steps[-keep:])


def dropped_checkpoints(store: Store, training: Manifest, steps: Iterable[int]) -> list[str]:
    """Return the folders of these checkpoints that keep_checkpoints removed."""
    gone = {file.partition("/")[0] for file in store.dropped(training.folder)}
    return sorted(gone & {checkpoint_name(step) for step in steps})


def need_checkpoints(store: Store, training: Manifest, steps: Iterable[int]) -> None:
    """Raise Damaged, so that the training is made again, if these checkpoints were dropped."""
    if needed := dropped_checkpoints(store, training, steps):
        store.guard()
        store.remove(training.folder, "resume")  # it belongs to a finished training
        store.remove(training.folder, DROPPED)
        raise Damaged(
            f"{store.address(training.folder, needed[0])}: it was removed after it was scored "
            f"(keep_checkpoints), and is needed again",
            training.folder,
        )


def checksums_of_checkpoints(training: Manifest) -> dict[int, str]:
    """Map each step to the checksum of its checkpoint's files, as checksum_of_folder has it. Those
    of checkpoints that the run was given are not known."""
    if TrainingView(training).folders:
        return {}
    files: dict[int, dict[str, str]] = {step: {} for step in TrainingView(training).checkpoints}
    for step, checksums in files.items():
        for part in training.parts:
            folder, _, name = part.file.rpartition("/")
            if folder == checkpoint_name(step):
                checksums[name] = part.checksum
    return {step: checksum_of_files(checksums) for step, checksums in files.items()}


def config_of(store: Store, folder: str) -> dict[str, Any]:
    """Return the config.json of a checkpoint's model; of an adapter, that of its base.

    folder: in the run directory, or the absolute path of a checkpoint that the run was given.
    """
    if os.path.isabs(folder):
        model = base_of(folder) if is_adapter(folder) else ModelConfig(name=folder)
        return read_json(store.download(keep_model(store, model) or ""), "config.json")
    name = "config.json" if store.exists(folder, "config.json") else BASE_CONFIG
    return store.read_json(folder, name)


@ray.remote(num_cpus=1)
def write_initial(
    store: Store,
    config: TrainingConfig,
    origin: str | None,
    tokenizer_folder: str,
    seed: int,
    folder: str,
) -> None:
    """Commit the model that a training starts from as a checkpoint in `folder`. origin: see
    models.origin."""
    from s2l_ray.corpus.tokenizer import load_tokenizer
    from s2l_ray.models.adapters import model_with_adapters, save_adapter
    from s2l_ray.models.loading import initial_model

    with working_folder() as local:
        base = on_this_node(store, config.model, origin)
        if config.lora is not None:
            model = model_with_adapters(config, base, seed=seed)
            save_adapter(model, model.state_dict(), local)
        else:
            tokenizer = load_tokenizer(store, tokenizer_folder)
            initial_model(base, tokenizer, seed=seed).save_pretrained(local)
        files = store.upload(local, folder)
    store.commit(folder, folder.rpartition("/")[2], [], {}, files)
