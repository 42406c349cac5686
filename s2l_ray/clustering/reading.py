"""The trajectories that a clusters stage reads: by Ray tasks, or, if there are few, in the driver.

N examples, T checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute
import ray

from s2l_ray.clustering.rows import HELD_BYTES
from s2l_ray.execution.parts import fold_parts
from s2l_ray.scoring.trajectories import losses_array, sources_of
from s2l_ray.store import Manifest, Part, Store


class Trajectories:
    """The trajectories of all sources, or of one: read by tasks into a Dataset, or, if there are
    few, here."""

    def __init__(self, store: Store, trajectories: Manifest, *, in_process: bool) -> None:
        self.store, self.manifest = store, trajectories
        self.held: pa.Table | None = None
        if not in_process:
            return
        folder, (part, *rest) = trajectories.folder, trajectories.parts
        first = _read_losses(part, store, folder)
        width = first["losses"].type.list_size  # of features, more than there are checkpoints
        if trajectories.rows * width * np.float32().nbytes <= HELD_BYTES:
            others = (_read_losses(each, store, folder) for each in rest)
            self.held = pa.concat_tables([first, *others])

    def sources(self) -> list[str | None]:
        if self.held is None:
            return sources_of(self.store, self.manifest)
        return [*sorted(self.held["source"].unique().to_pylist())]

    def of(self, source: str | None) -> ray.data.Dataset | np.ndarray:
        if self.held is not None:
            return losses_array(_only(self.held, source))
        read, parts = ray.remote(num_cpus=1)(_losses_alone), self.manifest.parts
        args = self.store, self.manifest.folder, source
        return ray.data.from_arrow_refs([read.remote(part, *args) for part in parts])

    def distinct(self, source: str | None, at_most: int) -> int:
        """Return how many distinct trajectories a source has, or `at_most` if there are more."""
        found: np.ndarray | None = None
        for rows_NT in self._distinct(source, at_most):
            both_NT = rows_NT if found is None else np.concatenate([found, rows_NT])
            found = np.unique(both_NT, axis=0)[:at_most]
        return 0 if found is None else len(found)

    def _distinct(self, source: str | None, at_most: int) -> Iterator[np.ndarray]:
        if self.held is not None:
            return iter([losses_array(_only(self.held, source))])
        args = self.store, self.manifest.folder, source, at_most
        return fold_parts(_distinct_rows, self.manifest.parts, *args)


def _read_losses(part: Part, store: Store, folder: str, source: str | None = None) -> pa.Table:
    table = store.read_part(folder, part, ["source", "losses"])
    bad = np.flatnonzero(~np.isfinite(losses_array(table)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{store.address(folder, part.file)}: a loss of row {bad[0] + 1} is not finite "
            f"({len(bad)} such rows)"
        )
    return _only(table, source)


def _losses_alone(part: Part, store: Store, folder: str, source: str | None) -> pa.Table:
    return _read_losses(part, store, folder, source).select(["losses"])


def _only(table: pa.Table, source: str | None) -> pa.Table:
    if source is not None:
        table = table.filter(pa.compute.equal(table["source"], source))
    return table


def all_equal(store: Store, trajectories: Manifest) -> np.ndarray | None:
    """Return the trajectory [T] that all examples have, or None if two differ."""
    only_T: np.ndarray | None = None
    parts = [part for part in trajectories.parts if part.rows]
    for row_T in fold_parts(_only_row, parts, store, trajectories.folder):
        if row_T is None or (only_T is not None and not np.array_equal(row_T, only_T)):
            return None
        only_T = row_T
    return only_T


def _only_row(part: Part, store: Store, folder: str) -> np.ndarray | None:
    losses_NT = losses_array(store.read_part(folder, part, ["losses"]))
    return losses_NT[0] if (losses_NT == losses_NT[0]).all() else None


def _distinct_rows(
    part: Part, store: Store, folder: str, source: str | None, at_most: int
) -> np.ndarray:
    return np.unique(losses_array(_read_losses(part, store, folder, source)), axis=0)[:at_most]
