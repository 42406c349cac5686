"""Arrow streams, as `datasets` saves them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from s2l_ray.corpus.files.batches import rows_of_batches
from s2l_ray.corpus.files.source import SourceFile
from s2l_ray.corpus.rows import SourceRow

ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"  # ends a whole stream; without it batches may be missing


def read_arrow(file: SourceFile, filesystem: pafs.FileSystem) -> Iterator[SourceRow]:
    """Yield every row, numbered from 1."""
    with filesystem.open_input_file(file.path) as data:
        size = data.size()
        if size < len(ARROW_END) or data.read_at(8, size - 8) != ARROW_END:
            raise OSError("cut short: no end of stream")
        data.seek(0)
        reader = pa.ipc.open_stream(data)
        yield from rows_of_batches(reader, reader.schema)
