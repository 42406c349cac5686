"""Parquet."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s2l_ray.corpus.files.batches import rows_of_batches
from s2l_ray.corpus.files.source import SourceFile
from s2l_ray.corpus.rows import SourceRow


def read_parquet(file: SourceFile, filesystem: pafs.FileSystem) -> Iterator[SourceRow]:
    """Yield every row, numbered from 1; of a range, those of its row groups."""
    with filesystem.open_input_file(file.path) as data:
        table = pq.ParquetFile(data, page_checksum_verification=True)
        groups = range(file.start, file.stop or table.num_row_groups)
        rows = sum(table.metadata.row_group(group).num_rows for group in groups)
        batches = table.iter_batches(batch_size=1000, row_groups=groups)
        yield from rows_of_batches(batches, table.schema_arrow, rows, file.first)
