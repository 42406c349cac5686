"""What the driver gives every worker of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2l_ray.config import TrainingConfig
from s2l_ray.store import Manifest, Store

SAVE_SECONDS = 2 * 3600  # that workers wait for one that writes a large model


@dataclass(frozen=True)
class TrainingJob:
    """A training stage to make in `folder`: `steps` optimizer steps on `tokens`."""

    store: Store
    tokens: Manifest
    config: TrainingConfig
    tokenizer_folder: str  # below the run directory
    origin: str | None  # of a pretrained model (models.origin)
    folder: str
    fingerprint: str
    seed: int
    steps: int
    board: Any  # a Board actor (execution.board): shows progress in the driver
    seconds: float | None = None  # after which to save and stop; None: no limit
    keep: int | None = None  # checkpoints to keep, the last ones; None: all
