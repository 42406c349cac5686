"""Rows of Arrow record batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from s2l_ray.corpus.files.json_lines import MOST_BYTES, SHOWN, over_limit
from s2l_ray.corpus.files.plain import is_plain
from s2l_ray.corpus.files.source import MIB
from s2l_ray.corpus.rows import MAX_COLUMNS, BadRow, SourceRow, first_repeated

SLICE, SLICE_BYTES = 1000, 8 * MIB  # rows that are read together, and about their size


def slices_of(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    limit: int,
    num_rows: int | None = None,
    first: int = 1,
) -> Iterator[Slice]:
    """Yield the rows of batches, numbered from `first`.

    limit: bytes of a row. OSError for a repeated column, too many of them, for data that
    points outside its buffers, or if there are other than num_rows rows.
    """
    if len(schema) > MAX_COLUMNS:
        raise OSError(
            f"expected at most {MAX_COLUMNS:,} columns, got {len(schema):,}; leave out those that "
            "hold no text"
        )
    if (twice := first_repeated(schema.names)) is not None:
        raise OSError(f"duplicate column {twice!r}")
    number = first
    for batch in batches:
        for some in slices_of_batch(batch, limit, number):
            yield some
            number += some.batch.num_rows
    if num_rows not in (None, found := number - first):
        raise OSError(f"expected {num_rows:,} rows, as the footer says, got {found:,}")


def slices_of_batch(batch: pa.RecordBatch, limit: int, first: int = 0) -> Iterator[Slice]:
    """Yield the rows of a batch, numbered from `first`; all 0 if it is 0. OSError as above."""
    is_text = check(batch)
    batch = _without_views(batch)
    rows = max(1, min(SLICE, batch.num_rows * SLICE_BYTES // max(1, batch.nbytes)))
    for start in range(0, batch.num_rows, rows):
        yield Slice(batch.slice(start, rows), first and first + start, limit, is_text)


@dataclass(frozen=True)
class Slice:
    """Some rows of Arrow data: a Batch of rows."""

    batch: pa.RecordBatch
    first: int  # number of the first row; 0 if rows have no numbers
    limit: int  # bytes of a row
    is_text: bool  # whether all text is UTF-8
    typed: ClassVar[bool] = True

    def rows(self, index: Sequence[int] | None = None) -> Iterator[SourceRow]:
        batch = self.batch if index is None else self.batch.take(pa.array(index, pa.int64()))
        places = np.arange(batch.num_rows) if index is None else np.asarray(index)
        contents = _contents(batch, self.limit)
        for number, (text, content) in zip(self.numbers(places).tolist(), contents, strict=True):
            yield SourceRow(number, text, content, typed=True)

    def numbers(self, index: np.ndarray) -> np.ndarray:
        return self.first + index if self.first else np.zeros(len(index), int)

    def table(self) -> pa.RecordBatch | None:
        if not self.is_text or self.batch.nbytes > min(self.limit, MOST_BYTES):
            return None
        plain = all(is_plain(each, of_json=False) for each in self.batch.columns)
        return self.batch if plain else None


def check(batch: pa.RecordBatch) -> bool:
    """Raise OSError if values point outside their buffers: reading them would read other memory.

    Return whether all text is UTF-8. Other text rejects its row alone.
    """
    is_text = True
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
            continue
        except pa.ArrowException as error:
            fault = error
        try:  # whether it is more than text that is not UTF-8
            column.view(_bytes_of(column.type)).validate(full=True)
        except pa.ArrowException:
            raise OSError(f"damaged: column {name!r}: {fault}") from None
        is_text = False
    return is_text


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Replace columns of string views: a slice of one counts the bytes of all its rows."""
    for index, kind in enumerate(batch.schema.types):
        if pa.types.is_string_view(kind):
            texts = batch.column(index).cast(pa.large_string())
            batch = batch.set_column(index, batch.schema.names[index], texts)
    return batch


def _bytes_of(kind: pa.DataType) -> pa.DataType:
    """Return the type with bytes in place of text, at any depth."""
    if isinstance(kind, pa.BaseExtensionType):
        return _bytes_of(kind.storage_type)
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_string_view(kind):
        return pa.binary_view()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _bytes_of(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_bytes_of(kind.key_type), _bytes_of(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_of(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_bytes_of(kind.value_type), kind.list_size)
    for is_list, make in (
        (pa.types.is_list, pa.list_),
        (pa.types.is_large_list, pa.large_list),
        (pa.types.is_list_view, pa.list_view),
        (pa.types.is_large_list_view, pa.large_list_view),
    ):
        if is_list(kind):
            return make(kind.value_field.with_type(_bytes_of(kind.value_type)))
    return kind


def _contents(batch: pa.RecordBatch, limit: int) -> Iterator[tuple[str | None, Any]]:
    """Convert a batch, in halves if a row of it may be longer than the limit."""
    size = batch.nbytes
    if size > limit and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _contents(batch.slice(0, half), limit)
        yield from _contents(batch.slice(half), limit)
        return
    if size > limit:  # also counts what other rows share with it, such as a dictionary
        text, content = _content(batch)
        whole = json.dumps(content, ensure_ascii=False, default=str) if text is None else text
        if (size := len(whole.encode(errors="replace"))) > limit:
            yield whole[:SHOWN], over_limit(size, limit)
        else:
            yield text, content
        return
    try:
        yield from [(None, row) for row in batch.to_pylist()]
    # Values that Python cannot hold: bytes that are not UTF-8, a date after the year 9999.
    except (ValueError, OverflowError):
        yield from (_content(batch.slice(index, 1)) for index in range(batch.num_rows))


def _content(row: pa.RecordBatch) -> tuple[str | None, Any]:
    """Convert one row. If a value cannot be read, return the others as text, and the fault."""
    values, fault = {}, None
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            [values[name]] = column.to_pylist()
        except (ValueError, OverflowError) as error:
            fault = BadRow("unreadable value", f"column {name!r}: {error}")
    if fault is None:
        return None, values
    return json.dumps(values, ensure_ascii=False, default=str), fault
