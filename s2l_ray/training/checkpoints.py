"""Checkpoints of a training: at which steps, under which names, made of which files."""

from __future__ import annotations

import math

import ray
import ray.train

from s2l_ray.config import ModelConfig, TrainingConfig
from s2l_ray.store import Manifest, Store
from s2l_ray.store.checksums import checksum_of_files
from s2l_ray.store.scratch import working_folder


def num_steps(config: TrainingConfig, num_examples: int) -> int:
    return config.max_steps or math.ceil(config.epochs * num_examples / config.global_batch_size)


def checkpoint_steps(config: TrainingConfig, steps: int) -> list[int]:
    """The steps after which a checkpoint is kept; the last step always is."""
    if config.checkpoint_every is not None:
        return sorted({*range(config.checkpoint_every, steps, config.checkpoint_every), steps})
    count = config.num_checkpoints or 1
    return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step:06d}"


def checkpoints_of(training: Manifest) -> dict[int, str]:
    """step -> folder, of a training stage."""
    return {
        step: f"{training.folder}/{checkpoint_name(step)}" for step in training.info["checkpoints"]
    }


def checksums_of_checkpoints(training: Manifest) -> dict[int, str]:
    """step -> mark of the files, of a training stage."""
    files: dict[int, dict[str, str]] = {step: {} for step in training.info["checkpoints"]}
    for step, checksums in files.items():
        for part in training.parts:
            folder, _, name = part.file.rpartition("/")
            if folder == checkpoint_name(step):
                checksums[name] = part.checksum
    return {step: checksum_of_files(checksums) for step, checksums in files.items()}


@ray.remote(num_cpus=1)
def write_initial(
    store: Store, config: ModelConfig, tokenizer_folder: str, seed: int, folder: str
) -> None:
    """The model as a training starts from it, as a checkpoint in `folder`."""
    from s2l_ray.corpus.tokenizer import load_tokenizer
    from s2l_ray.models.loading import initial_model

    with working_folder() as local:
        tokenizer = load_tokenizer(store, tokenizer_folder)
        initial_model(config, tokenizer, seed=seed).save_pretrained(local)
        store.upload(local, folder)
