"""Rankings that cover the features: a greedy order of the examples, with the features sharded over
actors. N examples, D features, U rows of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray

from s2l_ray.clustering.nearest import blas_threads
from s2l_ray.execution.actors import ActorPool
from s2l_ray.execution.parts import map_parts, units_of
from s2l_ray.execution.progress import Progress
from s2l_ray.selection.greedy import grid, on_grid
from s2l_ray.selection.kinds import BINS, Cover
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import RANKING

_CHUNK_ROWS = 2048  # at most; a chunk belongs to one part, and an actor works on one at a time
_TILE_ROWS = 128  # other rows that a chunk is compared with at a time: they fit in cache


def cover(
    store: Store,
    features: Manifest,
    *,
    rule: str,
    budget: int,
    seed: int,
    folder: str,
    fingerprint: str,
    num_actors: int | None = None,
) -> Manifest:
    """Choose `budget` examples with the Cover selector named `rule`, and write a ranking of all.

    features: parts with example_id and features fixed_size_list<float32>[D]. Parts of the same
    units: example_id, score float64 (the place in the greedy order, from 0; `budget` for examples
    that are not chosen, so any cut takes them last, by key), group int32 (0). info: sources [None],
    edges [255], ranked (the budget), and the selector's own. num_actors: as in ActorPool.

    The ranking depends neither on the actors nor on how rows are spread over parts. A run that
    stops before the parts are written starts the greedy order again.
    ValueError for a budget outside 1 to all rows; for features that are not finite, have another
    type or unequal lengths; and with facility_location for zeros, which have no direction.
    """
    selector = selector_named(rule)
    assert isinstance(selector, Cover)
    if not 1 <= budget <= features.rows:
        raise ValueError(
            f"selection.budget: {budget:,} examples, but from 1 to {features.rows:,} can be chosen"
        )
    with (
        ActorPool(FeatureActor, chunks_of(store, features, selector), num_actors) as pool,
        Progress(rule, total=budget, unit="examples") as progress,
    ):
        ids, widths = zip(*pool.each_chunk("inspect"), strict=True)
        if len(set(widths)) > 1:
            raise ValueError(
                f"{store.address(features.folder)}: features have between {min(widths)} and "
                f"{max(widths)} numbers, expected one length"
            )
        ids_N = np.concatenate(ids)
        rows, info = selector.cover(pool.each_chunk, ids_N, budget, seed, progress.advance)
    edges = (budget * np.arange(1, BINS) / (BINS - 1)).tolist()  # the last one: budget itself
    return map_parts(
        store,
        units_of(features),
        _Place,
        (store, features.folder, ids_N[rows]),
        folder=folder,
        fingerprint=fingerprint,
        label=f"rank {rule}",
        info={"sources": [None], "edges": edges, "ranked": budget} | info,
    )


@dataclass(frozen=True)
class _Chunk:
    """Rows start to stop of a part. first: the number of its first row among all rows. length: the
    grid's, for selectors that want one."""

    store: Store
    folder: str
    part: Part
    start: int
    stop: int
    first: int
    length: int | None

    @property
    def address(self) -> str:
        return self.store.address(self.folder, self.part.file)


def chunks_of(store: Store, features: Manifest, selector: Cover) -> list[_Chunk]:
    length = grid(features.rows) if selector.on_grid else None
    chunks, first = list[_Chunk](), 0
    for part in features.parts:
        for start in range(0, part.rows, _CHUNK_ROWS):
            stop = min(start + _CHUNK_ROWS, part.rows)
            chunks.append(_Chunk(store, features.folder, part, start, stop, first, length))
            first += stop - start
    return chunks


class _Rows(NamedTuple):
    """A chunk's rows float32 [N, D], as they are or on a grid, and their squares float64 [N]."""

    features_ND: np.ndarray
    square_N: np.ndarray


class FeatureWork:
    """Work on chunks. The result of `run` depends only on its arguments, so every actor gives the
    same for a chunk. Each method below `run` is one pass over a chunk."""

    def __init__(self) -> None:
        self.loaded = dict[int, _Rows]()  # by first row
        self.read: tuple[str, pa.Table] | None = None  # the last part, while chunks are loaded

    def run(self, chunks: list[_Chunk], method: str, *args: Any) -> list[Any]:
        for first in self.loaded.keys() - {chunk.first for chunk in chunks}:
            del self.loaded[first]  # another actor's by now
        with blas_threads().limit(limits=1):
            found = [getattr(self, method)(chunk, *args) for chunk in chunks]
        self.read = None
        return found

    def _table(self, chunk: _Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Return example_ids [N] and features [N, D] as they are in the part."""
        if self.read is None or self.read[0] != chunk.part.file:
            self.read = chunk.part.file, chunk.store.read_part(chunk.folder, chunk.part)
        table, rows = self.read[1], slice(chunk.start, chunk.stop)
        return table["example_id"].to_numpy()[rows], _matrix(table, chunk.address)[rows]

    def _rows(self, chunk: _Chunk) -> _Rows:
        if chunk.first not in self.loaded:
            features_ND = self._table(chunk)[1]
            if chunk.length is None:
                features_ND = features_ND.copy()  # a view would pin the whole part
            else:
                features_ND = on_grid(features_ND, chunk.length)
            wide_ND = features_ND.astype(np.float64)
            square_N = np.einsum("nd,nd->n", wide_ND, wide_ND)
            self.loaded[chunk.first] = _Rows(features_ND, square_N)
        return self.loaded[chunk.first]

    def inspect(self, chunk: _Chunk) -> tuple[np.ndarray, int]:
        """Return (example_ids [N], D); ValueError for features that cannot be used."""
        ids_N, features_ND = self._table(chunk)
        _check(
            ~np.isfinite(features_ND).all(axis=1), "hold NaN or inf, expected numbers", ids_N, chunk
        )
        if chunk.length is not None:
            _check(
                (features_ND == 0).all(axis=1), "are all zero, expected a direction", ids_N, chunk
            )
        self._rows(chunk)  # while its part is at hand
        return ids_N.copy(), features_ND.shape[1]

    def take(self, chunk: _Chunk, rows: np.ndarray) -> np.ndarray:
        """Return the features [U, D] of those of the rows that are in the chunk."""
        features_ND = self._rows(chunk).features_ND
        mine = rows[np.searchsorted(rows, chunk.first) :] - chunk.first
        return features_ND[mine[mine < len(features_ND)]]

    def squared_distances(self, chunk: _Chunk, center_D: np.ndarray) -> np.ndarray:
        features_ND = self._rows(chunk).features_ND
        squared_N = np.empty(len(features_ND))
        for first in range(0, len(features_ND), _TILE_ROWS):
            tile = slice(first, first + _TILE_ROWS)
            from_ND = features_ND[tile] - center_D
            squared_N[tile] = np.einsum("nd,nd->n", from_ND, from_ND)
        return squared_N

    def sums(self, chunk: _Chunk) -> tuple[np.ndarray, float]:
        """Return (sum of the rows [D], sum of their squares)."""
        features_ND, square_N = self._rows(chunk)
        return features_ND.sum(axis=0, dtype=np.float64), float(square_N.sum())

    def distances_to_all(self, chunk: _Chunk, sum_D: np.ndarray, num_rows: int) -> np.ndarray:
        """Return each row's summed squared distance to num_rows rows whose sum is sum_D, less the
        sum of those rows' squares."""
        features_ND, square_N = self._rows(chunk)
        return num_rows * square_N - 2 * (features_ND.astype(np.float64) @ sum_D)

    def changes(
        self, chunk: _Chunk, others_UD: np.ndarray, before_U: np.ndarray, after_U: np.ndarray
    ) -> np.ndarray:
        """Return the change of each row's gain if the squared distance of U other rows to their
        nearest chosen row falls from before_U to after_U."""
        features_ND, square_N = self._rows(chunk)
        columns_DN = features_ND.astype(np.float64).T
        change_N = np.zeros(len(features_ND))
        for first in range(0, len(others_UD), _TILE_ROWS):
            tile = slice(first, first + _TILE_ROWS)
            wide_UD, before_U1 = others_UD[tile].astype(np.float64), before_U[tile, None]
            squared_UN = (-2 * wide_UD) @ columns_DN
            squared_UN += square_N
            squared_UN += np.einsum("ud,ud->u", wide_UD, wide_UD)[:, None]
            np.maximum(squared_UN, after_U[tile, None], out=squared_UN)
            np.minimum(squared_UN, before_U1, out=squared_UN)
            change_N += squared_UN.sum(axis=0) - before_U1.sum()
        return change_N


FeatureActor = ray.remote(num_cpus=1)(FeatureWork)


def _check(bad_N: np.ndarray, what: str, ids_N: np.ndarray, chunk: _Chunk) -> None:
    bad = np.flatnonzero(bad_N)
    if len(bad):
        raise ValueError(
            f"{chunk.address}: the features of example_id {ids_N[bad[0]]} {what} ({len(bad)} such "
            f"rows from row {chunk.start + 1} to {chunk.stop})"
        )


def _matrix(table: pa.Table, address: str) -> np.ndarray:
    """Return the column `features` [N, D]."""
    expected = "expected fixed_size_list<float32>[D], D >= 1, without nulls"
    if "features" not in table.column_names:
        raise ValueError(f"{address}: columns {table.column_names}, no features; {expected}")
    column = table["features"].combine_chunks()
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise ValueError(f"{address}: column features is {kind}, {expected}")
    nulls = column.null_count + column.flatten().null_count
    if nulls or not kind.list_size:
        raise ValueError(f"{address}: column features is {kind} with {nulls} nulls, {expected}")
    return column.flatten().to_numpy().reshape(-1, kind.list_size)


class _Place:
    def __init__(self, store: Store, folder: str, chosen_B: np.ndarray) -> None:
        self.store, self.folder = store, folder
        self.order = np.argsort(chosen_B)
        self.sorted_B = chosen_B[self.order]

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.store.read_part(self.folder, unit["part"], ["example_id"])
        ids_N = table["example_id"].to_numpy()
        at_N = np.searchsorted(self.sorted_B, ids_N).clip(max=len(self.order) - 1)
        chosen_N = self.sorted_B[at_N] == ids_N
        score_N = np.where(chosen_N, self.order[at_N], len(self.order)).astype(np.float64)
        return pa.table([ids_N, score_N, np.zeros(len(ids_N), np.int32)], schema=RANKING), {}
