"""Tables as the bytes of a part file, Arrow or Parquet, with the part's stats in the metadata; and
tables of one string column, `line`, as a text file of these lines."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FEATURES = b"huggingface"  # metadata: types of columns for the library `datasets`


def encode(table: pa.Table, suffix: str, stats: dict[str, Any]) -> bytes:
    if suffix == "jsonl":
        assert not stats, "a text file has no place for stats"
        return "".join(table["line"].to_pylist()).encode()
    metadata = {b"stats": json.dumps(stats, sort_keys=True).encode()}
    if FEATURES in (table.schema.metadata or {}):
        metadata[FEATURES] = table.schema.metadata[FEATURES]
    table = table.replace_schema_metadata(metadata)
    sink = io.BytesIO()
    if suffix == "parquet":
        pq.write_table(table, sink, compression="zstd")
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    return sink.getvalue()


def decode(data: bytes, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read a part file of that name, with all columns or the given ones."""
    if name.endswith(".jsonl"):
        lines = data.decode().split("\n")[:-1]
        return pa.table({"line": pa.array([f"{line}\n" for line in lines], pa.string())})
    if name.endswith(".parquet"):
        return pq.read_table(pa.BufferReader(data), columns=columns)
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    return table.select(columns) if columns else table


def stats_of(table: pa.Table) -> dict[str, Any]:
    """Return the stats that `encode` put into the metadata."""
    return json.loads((table.schema.metadata or {}).get(b"stats", b"{}"))
