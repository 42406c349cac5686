"""Rows of a source as tables: parsed in batches, then settled by id (duplicates, collisions)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.bad_row import BadRow, Record
from s2l_ray.corpus.identity import content_of, example_id_of, hash63, is_heldout
from s2l_ray.corpus.shapes import Columns, detect, parse
from s2l_ray.store.schemas import EXAMPLES

PARSED = pa.schema(  # what a row becomes: an example, or a rejected row with its reason
    [
        ("part", pa.int32()),
        *EXAMPLES,
        ("heldout", pa.bool_()),
        ("raw", pa.string()),
        ("reason", pa.string()),
        ("category", pa.string()),  # the reason without values of the row
    ]
)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key given twice Python would take the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow("a key given twice", repr(twice[:40]))
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse_lines(lines: Iterable[bytes], file: str) -> Iterator[Record]:
    """JSON lines, numbered from 1; blank ones are no rows."""
    seen = 0
    for number, line in enumerate(lines, 1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        seen += 1
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            detail = f"byte 0x{line[error.start]:02x} at byte {error.start + 1}"
            yield number, line.decode(errors="replace").rstrip("\r\n"), BadRow("not UTF-8", detail)
            continue
        try:
            yield number, text, DECODER.decode(text)
        except BadRow as bad:
            yield number, text, bad
        except json.JSONDecodeError as error:
            if seen == 1 and text.strip() == "[":
                raise ValueError(f"{file}: one JSON list; wanted one JSON object a line") from None
            yield number, text, BadRow("not JSON", f"{error.msg} at character {error.pos + 1}")
        except (ValueError, RecursionError) as error:  # a huge number, deep nesting
            yield number, text, BadRow("not JSON", str(error))


def tabulate(
    records: Iterable[Record],
    file: str,
    *,
    config: CorpusConfig,
    seed: int,
    num_parts: int,
    names: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """Tables of PARSED, a few thousand rows each; one at least, so that the schema is known.

    The columns to read are those of `names`, else of the first rows.
    """
    records = iter(records)
    head = list(islice(records, 100))
    known = [record for _, _, record in head if isinstance(record, dict)]
    columns = Columns()
    if known:
        columns = detect([names] if names else known, config.columns, file)
    default = config.source or "default"
    rows, size, yielded = list[tuple[Any, ...]](), 0, False
    for number, raw, record in chain(head, records):
        try:
            if isinstance(record, BadRow):
                raise record
            if not known and isinstance(record, dict):  # the first hundred rows were all bad
                known = [record]
                columns = detect([names or record], config.columns, file)
            source, turns = parse(record, columns, default)
            content = content_of(turns)
            key = example_id_of(source, content)
            held = is_heldout(content, config.heldout_share, seed)
            row: tuple[Any, ...] = (key, source, turns, file, number, held, None, None, None)
            size += len(content)
        except BadRow as bad:
            if raw is None:
                raw = json.dumps(record, ensure_ascii=False, default=str)
            key = hash63(f"{file}:{number}:{raw}".encode(errors="replace"))
            texts = (_printable(text) for text in (raw, bad.reason, bad.category))
            row = (None, None, None, file, number, None, *texts)
            size += len(raw)
        rows.append((key * num_parts >> 63, *row))
        if len(rows) == 2000 or size > 2**23:
            yield _table(rows)
            rows, size, yielded = [], 0, True
    if rows or not yielded:
        yield _table(rows)


def settle(table: pa.Table, duplicates: str, span: tuple[int, int]) -> tuple[pa.Table, int]:
    """Sort by (example_id, file, row); drop or number the repeated. Returns the repeated too.

    Numbered: the n-th of the same gets the next free id inside `span`, the part's range of ids
    (from, up to). ValueError for one id with two contents.
    """
    order = [(name, "ascending") for name in ("example_id", "file", "row")]
    table = table.sort_by(order)
    ids = table["example_id"].to_numpy()
    again = np.flatnonzero(ids[1:] == ids[:-1]) + 1
    for i in again:
        one, two = (table.slice(j, 1).to_pylist()[0] for j in (int(i) - 1, int(i)))
        if (one["source"], one["turns"]) != (two["source"], two["turns"]):
            raise ValueError(
                f"example_id {one['example_id']} stands for two contents: {one['file']}:"
                f"{one['row']} and {two['file']}:{two['row']}; change one of the rows"
            )
    if duplicates == "drop" or not len(again):
        keep = np.ones(len(ids), bool)
        keep[again] = False
        return table.filter(pa.array(keep)), len(again)
    taken, fresh = set(ids.tolist()), ids.copy()
    for i in again:
        free = int(fresh[i - 1])
        while free in taken:
            free = free + 1 if free + 1 < span[1] else span[0]
        taken.add(free)
        fresh[i] = free
    place = table.schema.get_field_index("example_id")
    return table.set_column(place, "example_id", pa.array(fresh)).sort_by(order), len(again)


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(PARSED)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, PARSED, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PARSED)
