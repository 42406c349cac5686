"""Held-out examples in two halves: what chooses a subset must not be what measures it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.execution.parts import Work, map_parts, units_of
from s2l_ray.selection.cut import keys
from s2l_ray.store import Manifest, Store

SEED = 0x5EED  # of the hash, so that the halves have nothing to do with draws and folds


def half_of(
    store: Store, given: Manifest, half: int, label: str, *, folder: str, fingerprint: str
) -> Manifest:
    """Write the examples of one half, 0 or 1. An example's half is the top bit of a hash of its
    id. What was left out of the whole is told of the half, too."""
    told = {"in_corpus", "note"}
    info = {name: value for name, value in given.info.items() if name in told}
    return map_parts(
        store, units_of(given), _half, (store, given.folder, half),
        folder=folder, fingerprint=fingerprint, info=info, label=label,
        suffix="parquet",
    )  # fmt: skip


def _half(store: Store, folder: str, half: int) -> Work:
    def work(unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = store.read_part(folder, unit["part"])
        halves_N = keys(table["example_id"].to_numpy(), SEED) >> np.uint64(63)
        return table.filter(pa.array(halves_N == half)), {}

    return work
