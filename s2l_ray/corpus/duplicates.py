"""Rows that share an id: repeated examples, and collisions of different contents."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from s2l_ray.store.schemas import DUPLICATES


def settle(table: pa.Table, duplicates: str, span: tuple[int, int]) -> tuple[pa.Table, pa.Table]:
    """Sort a part by (example_id, file, row); drop or number repeated examples.

    duplicates: "drop", or "number", which gives the n-th copy the next free id inside `span`, the
    part's range of ids (first, end). Return the repeated rows too, as schemas.DUPLICATES: each with
    the first of its id. ValueError if one id stands for two contents.
    """
    order = [(name, "ascending") for name in ("example_id", "file", "row")]
    table = table.sort_by(order)
    ids = table["example_id"].to_numpy()
    again = np.flatnonzero(ids[1:] == ids[:-1]) + 1
    for i in again:
        one, two = (table.slice(j, 1).to_pylist()[0] for j in (int(i) - 1, int(i)))
        if any(one[name] != two[name] for name in ("source", "turns", "tools")):
            raise ValueError(
                f"example_id {one['example_id']} stands for two contents: {one['file']}:"
                f"{one['row']} and {two['file']}:{two['row']}; change one of the rows"
            )
    repeated = _repeated(table, again, np.searchsorted(ids, ids[again]))
    if duplicates == "drop" or not len(again):
        keep = np.ones(len(ids), bool)
        keep[again] = False
        return table.filter(pa.array(keep)), repeated
    taken, fresh = set(ids.tolist()), ids.copy()
    for i in again:
        free = int(fresh[i - 1])
        while free in taken:
            free = free + 1 if free + 1 < span[1] else span[0]
        taken.add(free)
        fresh[i] = free
    place = table.schema.get_field_index("example_id")
    return table.set_column(place, "example_id", pa.array(fresh)).sort_by(order), repeated


def _repeated(table: pa.Table, again: np.ndarray, kept: np.ndarray) -> pa.Table:
    """Return the rows `again` with where the rows `kept` are from."""
    rows, firsts = table.take(pa.array(again)), table.take(pa.array(kept))
    columns = [rows["example_id"], rows["file"], rows["row"], firsts["file"], firsts["row"]]
    return pa.table(columns, names=DUPLICATES.names).cast(DUPLICATES)
