"""Copies: the examples of groups of near-duplicates that a cap leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from s2l_ray.execution.parts import map_parts, units_of
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.views import NearDuplicatesView

Ranges = list[tuple[Part, int, int]]  # parts, each with its range of ids (first, end)


class Copies(NamedTuple):
    """Which examples of groups of near-duplicates are left out: all but the first `most` of each
    by id, which is a hash: a choice that no selector and no seed has a say in."""

    folder: str
    parts: Ranges
    most: int

    @classmethod
    def of(cls, near: Manifest, most: int) -> Copies:
        view = NearDuplicatesView(near)
        return cls(near.folder, [(part, *view.ids_of(part.unit)) for part in near.parts], most)

    def kept(self, store: Store, ids: np.ndarray) -> np.ndarray:
        """Return which of the ids are not left out: bool [N]."""
        kept = np.ones(len(ids), bool)
        for table in overlapping(store, self.folder, self.parts, ids):
            left_out = table["place"].to_numpy() >= self.most
            kept &= ~np.isin(ids, table["example_id"].to_numpy()[left_out])
        return kept

    def groups(self, store: Store, ids: np.ndarray) -> np.ndarray:
        """Return the groups of those of the ids that are in one, with repeats."""
        found = [np.empty(0, np.int64)]
        for table in overlapping(store, self.folder, self.parts, ids):
            mine = np.isin(table["example_id"].to_numpy(), ids)
            found.append(table["group"].to_numpy()[mine])
        return np.concatenate(found)


def without_copies(
    store: Store, stage: Manifest, copies: Copies, *, folder: str, fingerprint: str
) -> Manifest:
    """Write the rows of a stage whose examples are not left out."""
    return map_parts(
        store,
        units_of(stage),
        _Without,
        (store, stage.folder, copies),
        folder=folder,
        fingerprint=fingerprint,
        label="leave out copies",
        info=stage.info,
    )


class _Without:
    def __init__(self, store: Store, folder: str, copies: Copies) -> None:
        self.store, self.folder, self.copies = store, folder, copies

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.store.read_part(self.folder, unit["part"])
        kept = self.copies.kept(self.store, table["example_id"].to_numpy())
        return table.filter(pa.array(kept)).combine_chunks(), {}


def overlapping(store: Store, folder: str, ranges: Ranges, ids: np.ndarray) -> Iterator[pa.Table]:
    """Yield the parts that may have some of the ids."""
    if len(ids):
        low, high = int(ids.min()), int(ids.max())
        for part, first, end in ranges:
            if part.rows and first <= high and low < end:
                yield store.read_part(folder, part)
