"""Rows of Arrow record batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from s2l_ray.corpus.files.json_lines import SHOWN, over_limit
from s2l_ray.corpus.rows import BadRow, SourceRow

SLICE = 1000  # rows that are converted at once


def rows_of_batches(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    limit: int,
    num_rows: int | None = None,
    first: int = 1,
) -> Iterator[SourceRow]:
    """Yield the rows of batches, numbered from `first`.

    limit: bytes of a row. OSError for a repeated column, for data that points outside its buffers,
    or if there are other than num_rows rows.
    """
    if len(set(schema.names)) < len(schema):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise OSError(f"duplicate column {twice!r}")
    number = first - 1
    for batch in batches:
        check(batch)
        batch = _without_views(batch)
        for start in range(0, batch.num_rows, SLICE):
            for text, content in _contents(batch.slice(start, SLICE), limit):
                number += 1
                yield SourceRow(number, text, content, typed=True)
    if num_rows not in (None, found := number - first + 1):
        raise OSError(f"expected {num_rows:,} rows, as the footer says, got {found:,}")


def check(batch: pa.RecordBatch) -> None:
    """Raise OSError if values point outside their buffers: reading them would read other memory.

    Text that is not UTF-8 passes; it rejects its row alone.
    """
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
