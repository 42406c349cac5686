"""Arrow IPC: files (version 2 of Feather is one), and streams, as `datasets` saves them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.batches import Slice, slices_of
from s2l_ray.corpus.files.source import SourceFile, open_file

FILE = b"ARROW1"
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"  # without it batches may be missing


def read_arrow(file: SourceFile, config: CorpusConfig) -> Iterator[Slice]:
    """Yield every row, numbered from 1."""
    with open_file(file) as data:
        size = data.size()
        head = data.read_at(min(size, len(FILE)), 0)
        if head == FILE:
            whole = pa.ipc.open_file(data)
            schema = whole.schema
            batches = (whole.get_batch(index) for index in range(whole.num_record_batches))
        else:
            if size < len(STREAM_END) or data.read_at(8, size - 8) != STREAM_END:
                raise OSError("cut short: no end of stream")
            data.seek(0)
            batches = pa.ipc.open_stream(data)
            schema = batches.schema
        yield from slices_of(batches, schema, config.max_row_bytes)
