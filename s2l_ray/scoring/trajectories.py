"""Trajectories: the losses of each example at all checkpoints, in step order.

N examples, T checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from s2l_ray.execution.parts import fold_parts, map_parts
from s2l_ray.store import Manifest, Part, Store, schemas
from s2l_ray.store.views import StepsView

SAMPLE_ROWS = 50_000  # of samples for diagnostics and thresholds


def assemble(
    store: Store, corpus: Manifest, *losses: Manifest, folder: str, fingerprint: str
) -> Manifest:
    """Join the losses of all checkpoints. Schema `schemas.trajectories`, parts as in the corpus.
    stats: the sums of losses [T].

    losses: a stage of all examples, or stages of different examples by different proxies. If these
    have different numbers of checkpoints, the last ones before the end are left out of the longer.
    """
    steps_of = [StepsView(each).steps for each in losses]
    count = min(len(steps) for steps in steps_of)
    steps_of = [[*steps[: count - 1], steps[-1]] for steps in steps_of]
    parts = [{part.unit: part for part in each.parts} for each in losses]
    units = [
        {
            "unit": part.unit,
            "corpus": part,
            "losses": [
                [by_unit[f"step-{step:06d}/{part.unit}"] for step in steps]
                for by_unit, steps in zip(parts, steps_of, strict=True)
            ],
        }
        for part in corpus.parts
    ]
    return map_parts(
        store,
        units,
        _Assemble,
        (store, corpus.folder, [each.folder for each in losses]),
        folder=folder,
        fingerprint=fingerprint,
        label="trajectories",
        info={"steps": steps_of[0]},
    )


def losses_array(table: pa.Table) -> np.ndarray:
    """Return the column `losses` of a table of trajectories as float32 [N, T]."""
    column = table["losses"].combine_chunks()
    width = column.type.list_size
    return column.flatten().to_numpy().reshape(-1, width)


def sampled(parts: Sequence[Part], rows: int = SAMPLE_ROWS) -> list[Part]:
    """Return the first parts that have `rows` rows together, or all parts.

    They are a uniform sample, because parts are ranges of ids and ids are hashes. Of a corpus that
    grew, they are of each generation in proportion to its rows.
    """
    return [part for some, _ in _first(parts, rows) for part in some]


def _first(parts: Sequence[Part], rows: int) -> Iterator[tuple[list[Part], int]]:
    """Yield the parts to read of each generation, and how many rows of them to take."""
    generations: dict[str, list[Part]] = {}
    for part in parts:
        generations.setdefault(part.unit.partition(".g")[2], []).append(part)
    total = sum(part.rows for part in parts)
    for mine in generations.values():
        before = np.cumsum([0, *(part.rows for part in mine)])
        share = -(-rows * int(before[-1]) // max(1, total))
        yield [part for part, have in zip(mine, before, strict=False) if have < share], share


def sample_trajectories(store: Store, trajectories: Manifest, rows: int = SAMPLE_ROWS) -> pa.Table:
    """Return a uniform sample of `rows` trajectories, or all."""
    tables = [
        pa.concat_tables(store.read_part(trajectories.folder, part) for part in some).slice(0, take)
        for some, take in _first(trajectories.parts, rows)
        if some
    ]
    return pa.concat_tables(tables).slice(0, rows)


def mean_losses(store: Store, trajectories: Manifest) -> np.ndarray:
    """Return the mean loss over all examples at each checkpoint: float64 [T]."""
    parts = trajectories.parts
    if all("sums" in part.stats for part in parts):
        sums = [part.stats["sums"] for part in parts]
    else:  # an earlier version made them
        sums = list(fold_parts(_sums_of_part, parts, store, trajectories.folder))
    return np.sum(sums, axis=0) / trajectories.rows


def _sums_of_part(part: Part, store: Store, folder: str) -> list[float]:
    return _sums(losses_array(store.read_part(folder, part, ["losses"])))


def _sums(losses_NT: np.ndarray) -> list[float]:
    return losses_NT.sum(axis=0, dtype=np.float64).tolist()


def sources_of(store: Store, trajectories: Manifest) -> list[str | None]:
    """Return the sources of the trajectories, sorted."""
    found = set[str]()
    for sources in fold_parts(_sources, trajectories.parts, store, trajectories.folder):
        found.update(sources)
    return [*sorted(found)]


def _sources(part: Part, store: Store, folder: str) -> list[str]:
    return store.read_part(folder, part, ["source"])["source"].unique().to_pylist()


class _Assemble:
    def __init__(self, store: Store, corpus_folder: str, losses_folders: list[str]) -> None:
        self.store, self.corpus_folder = store, corpus_folder
        self.losses_folders = losses_folders

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        corpus = self.store.read_part(self.corpus_folder, unit["corpus"], ["example_id", "source"])
        found = [
            self._joined(folder, unit["unit"], parts)
            for folder, parts in zip(self.losses_folders, unit["losses"], strict=True)
        ]
        table = pa.concat_tables(found)
        if len(found) > 1:
            table = table.sort_by("example_id")
        table = table.combine_chunks()
        # The corpus also has the examples without a label token.
        places = pa.compute.index_in(table["example_id"], value_set=corpus["example_id"])
        if places.null_count:
            raise ValueError(f"{unit['unit']}: losses of {places.null_count} unknown examples")
        table = table.add_column(1, "source", corpus["source"].take(places))
        losses_NT = losses_array(table)
        return table.cast(schemas.trajectories(losses_NT.shape[1])), {"sums": _sums(losses_NT)}

    def _joined(self, folder: str, unit: str, parts: list[Part]) -> pa.Table:
        """Return example_id, losses and num_label_tokens of one stage's part."""
        tables = [self.store.read_part(folder, part) for part in parts]
        ids = tables[0]["example_id"]
        if any(not table["example_id"].equals(ids) for table in tables):
            raise ValueError(f"{unit}: the checkpoints have losses of different examples")
        losses_NT = np.stack([table["loss"].to_numpy() for table in tables], axis=1)
        bad = np.argwhere(~np.isfinite(losses_NT))
        if len(bad):
            row, checkpoint = bad[0]
            raise ValueError(
                f"{self.store.address(folder, parts[checkpoint].file)}: the loss of example_id "
                f"{ids[row]} is {losses_NT[row, checkpoint]}; expected a finite number"
            )
        losses = pa.FixedSizeListArray.from_arrays(
            pa.array(losses_NT.reshape(-1), pa.float32()), losses_NT.shape[1]
        )
        columns = {"example_id": ids, "losses": losses}
        return pa.table(columns | {"num_label_tokens": tables[0]["num_label_tokens"]})
