"""Trajectories from arrays and Ray Datasets, cut into chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import ray

NO_ROWS = "X has no rows, expected [N, T] with N >= n_clusters"

HELD_BYTES = 2**26  # of the largest array for which KMeans starts no actors
_PIECES = 16  # arrays of a chunk; more are joined

# (first row, end row, [(object ref, start, stop), ...])
Chunk = tuple[int, int, list[tuple[Any, int, int]]]


def cut_into_chunks(X, chunk_rows: int) -> list[Chunk]:
    """Cut an array [N, T], or a Dataset with a column `losses`, into chunks in row order.

    ValueError if there are no rows or no such column.
    """
    import ray
    import ray.data

    if not isinstance(X, ray.data.Dataset):
        losses_NT = as_float_array(X)
        if not len(losses_NT):
            raise ValueError(NO_ROWS)
        return [
            (first, first + len(part), [(ray.put(part), 0, len(part))])
            for first in range(0, len(losses_NT), chunk_rows)
            for part in [losses_NT[first : first + chunk_rows]]
        ]
    check_column(X)
    selected = X if _can_be_used_as_is(X) else X.select_columns(["losses"])
    options = selected.context.execution_options  # may be shared with X, so restore it
    preserve_order, options.preserve_order = options.preserve_order, True
    try:
        bundles = list(selected.materialize().iter_internal_ref_bundles())
    finally:
        options.preserve_order = preserve_order
    chunks, slices, first, filled = [], [], 0, 0
    for entry in (entry for bundle in bundles for entry in bundle.blocks):
        start, num_rows = 0, entry.metadata.num_rows
        while start < num_rows:
            stop = min(num_rows, start + chunk_rows - filled)
            slices.append((entry.ref, start, stop))
            filled += stop - start
            start = stop
            if filled == chunk_rows:
                chunks.append((first, first + filled, slices))
                slices, first, filled = [], first + filled, 0
    if slices:
        chunks.append((first, first + filled, slices))
    if not chunks:
        raise ValueError("the Dataset has no rows")
    return chunks


def _can_be_used_as_is(X: ray.data.Dataset) -> bool:
    """Return whether the Dataset is materialized, has losses alone, and no oversized blocks.

    Its blocks are then used where they are; selecting the column would copy them.
    """
    import ray.data

    if not isinstance(X, ray.data.dataset.MaterializedDataset) or X.columns() != ["losses"]:
        return False
    bundles = X.iter_internal_ref_bundles()
    sizes = [entry.metadata.size_bytes for bundle in bundles for entry in bundle.blocks]
    most = X.context.target_max_block_size
    return most is not None and all(size is not None and size <= most for size in sizes)


def decode(pieces: list[pa.Array], first_row: int = 0) -> list[np.ndarray]:
    """Return pieces of a list or Ray tensor column as float arrays [n, T], views where possible.

    first_row: of the pieces, for messages.
    """
    flats, lengths = [], []
    for piece in pieces:
        column_type = piece.type
        if isinstance(column_type, pa.BaseExtensionType):
            piece = piece.storage
        if pa.types.is_struct(piece.type):  # Ray's tensors of unequal shapes
            piece = piece.field("data")
        if (
            not hasattr(piece.type, "value_field")
            or len(getattr(column_type, "shape", (None,))) != 1
        ):
            raise ValueError(f"column 'losses' must hold lists of floats, got {column_type}")
        if piece.null_count:
            raise ValueError(f"column 'losses' has {piece.null_count} rows that are null")
        lengths.append(pc.list_value_length(piece).to_numpy(zero_copy_only=False))
        flats.append(piece.flatten().to_numpy(zero_copy_only=False))
    length_N = np.concatenate(lengths)
    other = np.flatnonzero(length_N != length_N[0])
    if other.size:
        raise ValueError(
            f"rows of unequal length: row {first_row} has {length_N[0]} losses, "
            f"row {first_row + other[0]} has {length_N[other[0]]}"
        )
    return [as_float_array(flat.reshape(-1, length_N[0])) for flat in flats]


class Rows:
    """The trajectories of a chunk: a few arrays [n, T] that follow one another; keeps no copies."""

    def __init__(self, pieces: list[np.ndarray]) -> None:
        self.pieces = pieces if len(pieces) <= _PIECES else [np.concatenate(pieces)]
        self.ends = np.cumsum([len(piece) for piece in self.pieces])

    def all(self) -> np.ndarray:
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)

    def at(self, places_n: np.ndarray) -> np.ndarray:
        """Return the rows at ascending places."""
        cuts, start, before, found = np.searchsorted(places_n, self.ends), 0, 0, []
        for piece, end, cut in zip(self.pieces, self.ends, cuts, strict=True):
            found.append(piece[places_n[before:cut] - start])
            start, before = end, cut
        return found[0] if len(found) == 1 else np.concatenate(found)


def as_float_array(X) -> np.ndarray:
    losses_NT = np.asarray(X)
    if losses_NT.dtype.kind != "f":
        losses_NT = losses_NT.astype(np.float64)
    if losses_NT.ndim != 2 or not losses_NT.shape[1]:
        raise ValueError(f"X has shape {losses_NT.shape}, expected [N, T] with T >= 1")
    return losses_NT


def check_column(dataset: ray.data.Dataset) -> None:
    columns = dataset.columns()
    if columns is None:
        raise ValueError("the Dataset has no rows")
    if "losses" not in columns:
        raise ValueError(f"the Dataset has no column 'losses', it has {columns}")
