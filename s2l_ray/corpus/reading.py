"""The rows of one file, in bounded memory: JSON lines, Parquet, Arrow, or a dataset of a hub."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s2l_ray.corpus.rows import BadRow, SourceRow
from s2l_ray.corpus.sources import COMPRESSED, MIB, SourceFile

ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"  # ends a whole stream; without it batches may be missing


def read_rows(file: SourceFile, split: str) -> Iterator[SourceRow]:
    """Yield every row of a file. ValueError if the file cannot be read."""
    try:
        if file.format == "hub":
            yield from _hub_rows(file, split)
            return
        filesystem = pafs.FileSystem.from_uri(file.root)[0] if file.root else pafs.LocalFileSystem()
        if file.format == "jsonl":
            if not file.bytes and file.path.endswith(COMPRESSED):
                raise OSError("cut short: 0 bytes")
            with filesystem.open_input_stream(file.path, compression="detect") as stream:
                yield from _json_lines(io.BufferedReader(stream, MIB), file.name)
        elif file.format == "parquet":
            with filesystem.open_input_file(file.path) as data:
                table = pq.ParquetFile(data, page_checksum_verification=True)
                batches = table.iter_batches(batch_size=1000)
                yield from _numbered(batches, table.schema_arrow, table.metadata.num_rows)
        else:
            with filesystem.open_input_file(file.path) as data:
                size = data.size()
                if size < len(ARROW_END) or data.read_at(8, size - 8) != ARROW_END:
                    raise OSError("cut short: no end of stream")
                data.seek(0)
                reader = pa.ipc.open_stream(data)
                yield from _numbered(reader, reader.schema)
    # UnicodeError: a column's name
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(f"{file.name}: cannot be read as {file.format}: {error}") from error


# -- JSON lines


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; refuse a repeated key, of which Python would silently take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow("duplicate key", repr(twice[:40]))
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _json_lines(lines: Iterable[bytes], file: str) -> Iterator[SourceRow]:
    """Parse lines, numbered from 1. Blank lines are not rows."""
    seen = 0
    for number, line in enumerate(lines, 1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        seen += 1
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            bad = BadRow("not UTF-8", f"byte 0x{line[error.start]:02x} at byte {error.start + 1}")
            yield SourceRow(number, line.decode(errors="replace").rstrip("\r\n"), bad)
            continue
        try:
            content: Any = DECODER.decode(text)
        except BadRow as bad:
            content = bad
        except json.JSONDecodeError as error:
            if seen == 1 and text.strip() == "[":
                raise ValueError(f"{file}: expected a JSON object per line, got a list") from None
            content = BadRow("not JSON", f"{error.msg} at character {error.pos + 1}")
        except (ValueError, RecursionError) as error:  # a huge number, deep nesting
            content = BadRow("not JSON", str(error))
        yield SourceRow(number, text, content)


# -- Arrow, in files and on a hub


def _hub_rows(file: SourceFile, split: str) -> Iterator[SourceRow]:
    import datasets

    data = datasets.load_dataset(file.path, split=split, revision=file.stamp)
    for index in range(file.start, file.stop):
        yield SourceRow(index + 1, None, data[index])


def _numbered(batches: Any, schema: pa.Schema, num_rows: int | None = None) -> Iterator[SourceRow]:
    """Yield the rows of batches; OSError for a repeated column or other than num_rows rows."""
    if len(set(schema.names)) < len(schema):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise OSError(f"duplicate column {twice!r}")
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 1000):
            for text, content in _contents(batch.slice(start, 1000)):
                number += 1
                yield SourceRow(number, text, content)
    if num_rows not in (None, number):
        raise OSError(f"expected {num_rows:,} rows, as the footer says, got {number:,}")


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
