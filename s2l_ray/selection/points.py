"""What clusters are made of beside trajectories: falls, means, features, or fewer examples. All in
the schema of trajectories, so that the clusters stage reads them alike.

N examples, T checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.errors import TooFew
from s2l_ray.execution.parts import map_parts, units_of
from s2l_ray.scoring.trajectories import losses_array
from s2l_ray.selection.ranking import read_beside, units_beside
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import StepsView

Change = Callable[[pa.Table], pa.Table]


def falls(store: Store, trajectories: Manifest, *, folder: str, fingerprint: str) -> Manifest:
    """Write the falls, losses[t] - losses[t + 1], of the examples whose loss fell from the first
    checkpoint to the last: one point less than there are losses.

    A variant of S2L of our own: what is not learned is dropped before clustering. TooFew if no loss
    fell.
    """
    steps = StepsView(trajectories).steps[1:]
    made = _changed(store, trajectories, _falls, "falls", steps, folder, fingerprint)
    return _some("prune_then_cluster", trajectories, made)


def learned(store: Store, trajectories: Manifest, *, folder: str, fingerprint: str) -> Manifest:
    """Write the trajectories of the examples whose loss fell from the first checkpoint to the last.
    TooFew if no loss fell."""
    steps = StepsView(trajectories).steps
    made = _changed(store, trajectories, _learned, "learned", steps, folder, fingerprint)
    return _some("cross_fitted", trajectories, made)


def means(store: Store, trajectories: Manifest, *, folder: str, fingerprint: str) -> Manifest:
    """Write the mean loss of each example, as one point."""
    steps = StepsView(trajectories).steps[-1:]
    return _changed(store, trajectories, _means, "mean losses", steps, folder, fingerprint)


def features(
    store: Store, trajectories: Manifest, *, details: Manifest, folder: str, fingerprint: str
) -> Manifest:
    """Write the `features` of details: as `losses` float32[D].

    With them S2L's rule runs on another embedding, which tells what trajectories are worth.
    """
    return map_parts(
        store,
        units_beside(trajectories, {"final": details}),
        _Features,
        (store, trajectories.folder),
        folder=folder,
        fingerprint=fingerprint,
        label="features",
    )


def _changed(
    store: Store,
    trajectories: Manifest,
    change: Change,
    label: str,
    steps: list[int],
    folder: str,
    fingerprint: str,
) -> Manifest:
    return map_parts(
        store,
        units_of(trajectories),
        _Changed,
        (store, trajectories.folder, change),
        folder=folder,
        fingerprint=fingerprint,
        label=label,
        info={"steps": steps},
    )


def _some(selector: str, trajectories: Manifest, made: Manifest) -> Manifest:
    if not made.rows:
        raise TooFew(
            f"selection.selector: {selector} drops examples whose loss does not fall, and the loss "
            f"of none of {trajectories.rows:,} examples falls"
        )
    return made


class _Changed:
    def __init__(self, store: Store, folder: str, change: Change) -> None:
        self.store, self.folder, self.change = store, folder, change

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        return self.change(self.store.read_part(self.folder, unit["part"])), {}


def _falls(table: pa.Table) -> pa.Table:
    table = _learned(table)
    losses_NT = losses_array(table)
    return _with_losses(table, losses_NT[:, :-1] - losses_NT[:, 1:])


def _learned(table: pa.Table) -> pa.Table:
    losses_NT = losses_array(table)
    return table.filter(pa.array(losses_NT[:, -1] < losses_NT[:, 0]))


def _means(table: pa.Table) -> pa.Table:
    mean_N = losses_array(table).mean(axis=1, dtype=np.float64, keepdims=True)
    return _with_losses(table, mean_N.astype(np.float32))


def _with_losses(table: pa.Table, losses_NT: np.ndarray) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(losses_NT).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, losses_NT.shape[1])
    return table.set_column(table.schema.get_field_index("losses"), "losses", column)


class _Features:
    def __init__(self, store: Store, folder: str) -> None:
        self.store, self.folder = store, folder

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.store.read_part(self.folder, unit["part"])
        found = read_beside(self.store, table, unit["beside"]["final"], ("features",))
        place = table.schema.get_field_index("losses")
        return table.set_column(place, "losses", found["features"]), {}
