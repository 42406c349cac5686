"""Windows of training that the workers of a node share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s2l_ray.store import Manifest, scratch
from s2l_ray.store.checksums import checksum_of
from s2l_ray.training.windows import Window


class NodeWindows:
    """Reads each window of a training once for all workers of the node.

    The first worker writes the window into the node's temporary folder, and all of them map it into
    memory. It is removed at the second window after it: no worker is more than a few steps ahead of
    another, so by then all have it.

    training: the address of its folder. tokens, seed: what the windows depend on.
    """

    def __init__(self, training: str, tokens: Manifest, seed: int) -> None:
        files = [part.file for part in tokens.parts]  # their names have checksums
        what = [training, tokens.folder, files, seed, Window._fields]  # another version has others
        self.key = checksum_of(json.dumps(what).encode())
        self.known: list[str] = []
        self.closed = False

    def __call__(self, name: str, read: Callable[[], Window]) -> Window:
        """Return the window of that name, which `read` reads."""

        def write(local: str) -> None:
            for field, array in read()._asdict().items():
                np.save(Path(local, f"{field}.npy"), array)

        while True:
            local = scratch.copy_of(f"window-{self.key}-{name}", write)
            try:
                files = (np.load(Path(local, f"{f}.npy"), mmap_mode="r") for f in Window._fields)
                window = Window(*map(np.asarray, files))  # slices of a memmap are slow
            except FileNotFoundError:  # removed meanwhile, since windows are smaller than batches
                continue
            self.known.append(local)
            self._discard(keep=0 if self.closed else 2)
            return window

    def close(self) -> None:
        self.closed = True  # a window may be on its way
        self._discard(keep=0)

    def _discard(self, keep: int) -> None:
        while len(self.known) > keep:
            scratch.discard(self.known.pop(0))
