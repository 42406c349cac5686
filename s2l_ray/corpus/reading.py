"""The rows of one file, in bounded memory, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.arrow import read_arrow
from s2l_ray.corpus.files.csv_tables import read_csv
from s2l_ray.corpus.files.json_documents import read_json
from s2l_ray.corpus.files.json_lines import read_json_lines
from s2l_ray.corpus.files.parquet import read_parquet
from s2l_ray.corpus.files.source import SourceFile, fault_of
from s2l_ray.corpus.rows import LONGEST_REASON, Batch, SourceRow, one_by_one
from s2l_ray.formatting import printable

READERS: dict[str, Callable[[SourceFile, CorpusConfig], Iterator[SourceRow | Batch]]] = {
    "jsonl": read_json_lines,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}


def read_rows(file: SourceFile, config: CorpusConfig) -> Iterator[SourceRow]:
    """Yield every row of a file. ValueError if the file cannot be read."""
    return one_by_one(read_batches(file, config))


def read_batches(file: SourceFile, config: CorpusConfig) -> Iterator[SourceRow | Batch]:
    """Yield every row of a file, many together if its format allows it.

    Columns that folder names give are added to rows that lack them. ValueError as in read_rows.
    """
    rows = READERS[file.format](file, config)
    try:
        for each in rows:
            if not file.partitions:
                yield each
            elif isinstance(each, SourceRow):
                yield _completed(each, file.partitions)
            else:
                yield _Partitioned(each, file.partitions)
    # UnicodeError: a column's name
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        why = fault_of(file) or printable(str(error)[:LONGEST_REASON])
        raise ValueError(f"{file.name}: cannot be read as {file.format}: {why}") from error


@dataclass(frozen=True)
class _Partitioned:
    """A Batch to whose rows columns are added, where they lack them."""

    batch: Batch
    columns: dict[str, str]

    @property
    def typed(self) -> bool:
        return self.batch.typed

    def table(self) -> pa.RecordBatch | None:
        table = self.batch.table()
        if table is None or self.columns.keys() & set(table.schema.names):
            return None
        added = [pa.repeat(value, table.num_rows) for value in self.columns.values()]
        names = [*self.columns, *table.schema.names]
        return pa.RecordBatch.from_arrays([*added, *table.columns], names=names)

    def numbers(self, index: np.ndarray) -> np.ndarray:
        return self.batch.numbers(index)

    def rows(self, index: Sequence[int] | None = None) -> Iterator[SourceRow]:
        return (_completed(row, self.columns) for row in self.batch.rows(index))


def _completed(row: SourceRow, columns: dict[str, str]) -> SourceRow:
    if not isinstance(row.content, dict):
        return row
    return row._replace(content=columns | row.content)
