"""The models that an actor holds between calls."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from s2l_ray.config import WorkersConfig
from s2l_ray.models import adapters
from s2l_ray.models.loading import (
    Placing,
    device_of,
    explain_out_of_memory,
    load_model,
    spread_over_gpus,
)
from s2l_ray.models.loss import LabelLoss
from s2l_ray.store import Store
from s2l_ray.store.checksums import checksum_of_folder

SMALLER = "use a larger GPU or more of them, or set trajectories.dtype: bfloat16"

KEPT_SHARE = 0.25  # of a GPU's memory, for models that may be needed again


class _Held(NamedTuple):
    loss: LabelLoss
    checksum: str
    bytes: int


class HeldModel:
    """Loads models of a run and keeps the last one, on the actor's device.

    On a GPU it keeps earlier ones too, while all of them take at most KEPT_SHARE of its memory: the
    checkpoints of a small proxy are loaded once and used for one part after another.
    """

    def __init__(
        self,
        store: Store,
        workers: WorkersConfig,
        *,
        dtype: str = "float32",
        tf32: bool = False,
        advice: str = SMALLER,
    ) -> None:
        self.store, self.dtype, self.advice = store, dtype, advice
        self.device = device_of(workers, tf32=tf32)
        self.spread = workers.gpus_per_worker > 1  # the layers of a model over several GPUs
        self.room = room_of(self.device, workers)
        self.held: dict[str, _Held] = {}  # by folder, in the order of their last use

    @property
    def checksum(self) -> str:
        """Of the files that the last model was loaded from; "" before the first."""
        return next(reversed(self.held.values())).checksum if self.held else ""

    def load(self, folder: str) -> LabelLoss:
        """The model in a folder of the run (or in an absolute local path), in eval mode.

        Loads it unless it is held. Of two adapters of one base, the base stays. ValueError if the
        folder is damaged, the model is not causal, or the GPU's memory is too small; `advice` says
        what to do about the last.
        """
        if folder in self.held:
            self.held[folder] = self.held.pop(folder)
            return self.held[folder].loss
        local = self.store.download(folder)
        with explain_out_of_memory(folder, "loading the weights", self.advice):
            loss = self._swapped(local) or self._load(local)
        size = sum(weights.nbytes for weights in loss.parameters())
        self.held[folder] = _Held(loss, checksum_of_folder(local), size)
        return loss

    def drop(self, keep: int) -> bool:
        """Drop all but the last `keep` models. Return whether there were any others."""
        others = list(self.held)[: len(self.held) - keep]
        for folder in others:
            del self.held[folder]
        return bool(others)

    def _swapped(self, local: str) -> LabelLoss | None:
        """Put another adapter into the last model, if it fits that."""
        if not self.held or not adapters.fits(next(reversed(self.held.values())).loss.model, local):
            return None
        _, held = self.held.popitem()  # first: it is neither of the two if the swap fails
        adapters.swap(held.loss.model, local)
        return held.loss

    def _load(self, local: str) -> LabelLoss:
        size = sum(file.stat().st_size for file in Path(local).glob("*.safetensors"))
        while self.held and size + sum(each.bytes for each in self.held.values()) > self.room:
            del self.held[next(iter(self.held))]  # before the next is loaded
        while True:
            try:
                return LabelLoss(self._read(local)).eval()
            except torch.OutOfMemoryError:
                if not self.drop(keep=0):
                    raise

    def _read(self, local: str) -> PreTrainedModel:
        if adapters.is_adapter(local):
            model = adapters.load_with_adapter(self.store, local, dtype=self.dtype)
            return spread_over_gpus(model) if self.spread else model.to(self.device)
        if self.spread:
            return load_model(local, placing=Placing(getattr(torch, self.dtype), "auto"))
        return load_model(local, dtype=self.dtype).to(self.device)


def room_of(device: torch.device, workers: WorkersConfig) -> float:
    """Return how many bytes of models an actor keeps. On a CPU, one model."""
    if device.type != "cuda" or workers.gpus_per_worker > 1:
        return 0.0
    share = KEPT_SHARE * workers.gpus_per_worker
    return share * torch.cuda.get_device_properties(device).total_memory
