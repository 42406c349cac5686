"""Rows that share an id: repeated examples, and collisions of different contents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import DUPLICATES, EXAMPLES, completed
from s2l_ray.store.views import CorpusView

CONTENT = ("source", "turns", "tools")


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
        _check_same(*(table.slice(j, 1).to_pylist()[0] for j in (int(i) - 1, int(i))))
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


class Known(NamedTuple):
    """The examples of older corpora.

    parts: each with its folder and its range of ids (first, end).
    """

    parts: list[tuple[str, Part, int, int]]

    @classmethod
    def of(cls, store: Store, older: Sequence[Manifest]) -> Known:
        """older: corpora; their held-out examples are known too."""
        found = []
        for corpus in older:
            heldout = store.manifest(f"{corpus.folder}/heldout")
            for each in [corpus, *([heldout] if heldout else [])]:
                for part in each.parts:
                    found.append((each.folder, part, *CorpusView(corpus).ids_of(part.unit)))
        return cls(found)

    def dropped(
        self, store: Store, table: pa.Table, span: tuple[int, int]
    ) -> tuple[pa.Table, pa.Table]:
        """Return a part's rows that are not known, and the others as schemas.DUPLICATES.

        span: the part's range of ids. ValueError if one id stands for two contents.
        """
        repeated = [DUPLICATES.empty_table()]
        for first in self._known(store, table["example_id"], span):
            again = pc.is_in(table["example_id"], value_set=first["example_id"])
            rows = table.filter(again).sort_by("example_id")
            for one, two in zip(first.to_pylist(), rows.to_pylist(), strict=True):
                _check_same(one, two)
            repeated.append(_beside(rows, first))
            table = table.filter(pc.invert(again))
        return table, pa.concat_tables(repeated)

    def _known(self, store: Store, ids: Any, span: tuple[int, int]) -> Iterator[pa.Table]:
        """Yield the known examples among the ids, in order of id."""
        for folder, part, first, end in self.parts:
            if max(first, span[0]) < min(end, span[1]):
                had = store.read_part(folder, part, ["example_id"])["example_id"]
                if pc.any(pc.is_in(ids, value_set=had)).as_py():
                    whole = completed(store.read_part(folder, part), EXAMPLES)
                    yield whole.filter(pc.is_in(whole["example_id"], value_set=ids))


def _check_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Raise ValueError if two rows of one id differ in content."""
    if any(one[name] != two[name] for name in CONTENT):
        raise ValueError(
            f"example_id {one['example_id']} stands for two contents: {one['file']}:"
            f"{one['row']} and {two['file']}:{two['row']}; change one of the rows"
        )


def _repeated(table: pa.Table, again: np.ndarray, kept: np.ndarray) -> pa.Table:
    """Return the rows `again` with where the rows `kept` are from."""
    return _beside(table.take(pa.array(again)), table.take(pa.array(kept)))


def _beside(rows: pa.Table, firsts: pa.Table) -> pa.Table:
    columns = [rows["example_id"], rows["file"], rows["row"], firsts["file"], firsts["row"]]
    return pa.table(columns, names=DUPLICATES.names).cast(DUPLICATES)
