"""Tables as the bytes of a part file, Arrow or Parquet, with the part's stats in the metadata."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def encode(table: pa.Table, suffix: str, stats: dict[str, Any]) -> bytes:
    table = table.replace_schema_metadata({"stats": json.dumps(stats, sort_keys=True)})
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
    if name.endswith(".parquet"):
        return pq.read_table(pa.BufferReader(data), columns=columns)
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    return table.select(columns) if columns else table


def stats_of(table: pa.Table) -> dict[str, Any]:
    """Return the stats that `encode` put into the metadata."""
    return json.loads((table.schema.metadata or {}).get(b"stats", b"{}"))
