"""Rows of Arrow record batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from s2l_ray.corpus.rows import BadRow, SourceRow


def rows_of_batches(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    num_rows: int | None = None,
    first: int = 1,
) -> Iterator[SourceRow]:
    """Yield the rows of batches, numbered from `first`.

    OSError for a repeated column or other than num_rows rows.
    """
    if len(set(schema.names)) < len(schema):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise OSError(f"duplicate column {twice!r}")
    number = first - 1
    for batch in batches:
        for start in range(0, batch.num_rows, 1000):
            for text, content in _contents(batch.slice(start, 1000)):
                number += 1
                yield SourceRow(number, text, content)
    if num_rows not in (None, found := number - first + 1):
        raise OSError(f"expected {num_rows:,} rows, as the footer says, got {found:,}")


def _contents(batch: pa.RecordBatch) -> list[tuple[str | None, Any]]:
    try:
        return [(None, row) for row in batch.to_pylist()]
    # Values that Python cannot hold: bytes that are not UTF-8, a date after the year 9999.
    except (ValueError, OverflowError):
        return [_content(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _content(batch: pa.RecordBatch) -> tuple[str | None, Any]:
    """Convert one row. If a value cannot be read, return the others as text, and the fault."""
    row, fault = {}, None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            [row[name]] = column.to_pylist()
        except (ValueError, OverflowError) as error:
            fault = BadRow("unreadable value", f"column {name!r}: {error}")
    return (json.dumps(row, ensure_ascii=False, default=str), fault) if fault else (None, row)
