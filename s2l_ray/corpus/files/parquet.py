"""Parquet."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.batches import SLICE, Slice, slices_of
from s2l_ray.corpus.files.source import MIB, SourceFile, check_expansion, open_file

BATCH_BYTES = 8 * MIB


def read_parquet(file: SourceFile, config: CorpusConfig) -> Iterator[Slice]:
    """Yield every row, numbered from 1; of a range, those of its row groups."""
    with open_file(file) as data:
        table = pq.ParquetFile(data, page_checksum_verification=True)
        groups = range(file.start, file.stop or table.num_row_groups)
        abouts = [table.metadata.row_group(group) for group in groups]
        batches = table.iter_batches(batch_size=_batch_rows(abouts), row_groups=groups)
        rows = sum(about.num_rows for about in abouts)
        check_expansion(sum(about.total_byte_size for about in abouts), data.size())
        limit = config.max_row_bytes
        yield from slices_of(batches, table.schema_arrow, limit, rows, file.first)


def _batch_rows(groups: list[pq.RowGroupMetaData]) -> int:
    """Return how many rows make a batch of some BATCH_BYTES, at most SLICE."""
    widest = max((g.total_byte_size // max(1, g.num_rows) for g in groups), default=0)
    return max(1, min(SLICE, BATCH_BYTES // max(1, widest)))
