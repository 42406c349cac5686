"""Resume points: where an unfinished training continues after a stop.

A resume point is a folder `resume/step-000500` of the training. It has a file of pieces from each
worker: of the optimizer's moments and of the master weights (pieces.py). The latter are missing if
they are the weights of a checkpoint, which its manifest then names. The manifest's info is a
TrainingState. Resume points of version 0.1 have the weights as a model in Hugging Face format.
"""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from s2l_ray.config.values import parse_interval
from s2l_ray.store import Manifest, Part, Store

logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """How far a training is. Without `files` and `weights`: the info of the finished stage."""

    step: int = 0  # optimizer steps done
    workers: int | None = None  # that did the last of them
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of these spent waiting for batches
    tokens: int = 0
    padded_tokens: int = 0
    history: list[list[float]] = field(default_factory=list)  # [step, mean loss up to it]
    checkpoints: list[int] = field(default_factory=list)  # steps
    files: list[Part] = field(default_factory=list)  # of the checkpoints
    weights: str = ""  # folder of the checkpoint with the weights that training goes on from

    @classmethod
    def of(cls, info: dict[str, Any]) -> TrainingState:
        return cls(**info | {"files": [Part(**file) for file in info.get("files", [])]})

    @property
    def weight_files(self) -> list[Part]:
        """The files of the checkpoint that has the weights."""
        return [part for part in self.files if part.file.startswith(f"{self.weights}/")]

    def as_info(self) -> dict[str, Any]:
        return asdict(self)


class ResumeTimes:
    """When a resume point is due. every: see TrainingConfig.resume_every.

    By time, workers differ in what they see: the step tells all of them that it is time for one.
    """

    def __init__(self, every: int | str) -> None:
        self.unit, self.every = parse_interval(every)
        self.saved()

    def saved(self) -> None:
        self.last = time.monotonic()

    @property
    def is_time(self) -> bool:
        return self.unit == "seconds" and time.monotonic() - self.last >= self.every

    def is_step(self, step: int) -> bool:
        return self.unit == "steps" and step % self.every == 0


def resume_name(step: int, epoch: int | None) -> str:
    """Name a resume point. The epoch of the lease keeps an old owner of the run, which does not
    know yet that it has lost it, from writing into a resume point of the new owner."""
    return f"step-{step:06d}" + (f"-lease-{epoch}" if epoch else "")


def resume_points(store: Store, folder: str) -> list[str]:
    """List the names of a training's resume points, newest first, complete or not."""
    found = []
    for name in store.names(folder, "resume"):
        if match := re.fullmatch(r"step-(\d+)(?:-lease-(\d+))?", name):
            found.append((int(match[1]), int(match[2] or 0), name))
    return [name for _, _, name in sorted(found, reverse=True)]


def resume_point(store: Store, folder: str, name: str) -> tuple[Manifest | None, str | None]:
    """Read the manifest of a resume point (None if there is none, or it cannot be read), and say
    what is wrong with it or its files."""
    try:
        manifest = store.manifest(f"{folder}/resume/{name}")
        if manifest is None:
            return None, None
        checkpoint = Manifest(folder, "", TrainingState.of(manifest.info).weight_files)
        return manifest, store.fault(manifest) or store.fault(checkpoint)
    except ValueError as error:
        return None, str(error)


def checkpoints_so_far(store: Store, folder: str) -> list[int]:
    """List the steps of the checkpoints that an unfinished training has kept so far."""
    for name in resume_points(store, folder):
        with suppress(OSError, ValueError):  # the training may remove one at any moment
            if manifest := store.manifest(f"{folder}/resume/{name}"):
                return TrainingState.of(manifest.info).checkpoints
    return []


def last_resume_point(store: Store, folder: str) -> tuple[str, TrainingState]:
    """Find the newest complete resume point: its name ("" if there is none) and its state.

    Skips incomplete ones, and logs what is wrong with them.
    """
    for name in resume_points(store, folder):
        manifest, fault = resume_point(store, folder, name)
        if fault:
            logger.info(f"{fault}; training continues from an earlier step")
        elif manifest:
            return name, TrainingState.of(manifest.info)
    return "", TrainingState()
