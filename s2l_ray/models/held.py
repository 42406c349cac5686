"""The model that an actor holds between calls."""

from __future__ import annotations

from transformers import PreTrainedModel

from s2l_ray.config import WorkersConfig
from s2l_ray.models import adapters
from s2l_ray.models.loading import device_of, explain_out_of_memory, load_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.store import Store
from s2l_ray.store.checksums import checksum_of_folder

SMALLER = "use a larger GPU, or set trajectories.dtype: bfloat16"


class HeldModel:
    """Loads models of a run one at a time and keeps the last one, on the actor's device.

    checksum: of the files that the held model was loaded from; "" before the first.
    """

    def __init__(
        self, store: Store, workers: WorkersConfig, *, dtype: str = "float32", advice: str = SMALLER
    ) -> None:
        self.store, self.dtype, self.advice = store, dtype, advice
        self.device = device_of(workers)
        self.folder = self.checksum = ""
        self.loss: LabelLoss | None = None

    def load(self, folder: str) -> LabelLoss:
        """The model in a folder of the run (or in an absolute local path), in eval mode.

        Loads it unless it is the held one. Of two adapters of one base, the base stays. ValueError
        if the folder is damaged, the model is not causal, or the GPU's memory is too small;
        `advice` says what to do about the last.
        """
        if self.loss is not None and folder == self.folder:
            return self.loss
        before, self.loss = self.loss, None
        local = self.store.download(folder)
        with explain_out_of_memory(folder, "loading the weights", self.advice):
            if before is not None and adapters.fits(before.model, local):
                adapters.swap(before.model, local)
                loss = before
            else:
                before = None  # before the next one is loaded: the two may not fit together
                loss = LabelLoss(self._read(local).to(self.device)).eval()
        self.folder, self.checksum = folder, checksum_of_folder(local)
        self.loss = loss
        return loss

    def _read(self, local: str) -> PreTrainedModel:
        if adapters.is_adapter(local):
            return adapters.load_with_adapter(self.store, local, dtype=self.dtype)
        return load_model(local, dtype=self.dtype)
