"""The rows of one file, in bounded memory, whatever its format."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator

import pyarrow as pa

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.arrow import read_arrow
from s2l_ray.corpus.files.csv_tables import read_csv
from s2l_ray.corpus.files.json_documents import read_json
from s2l_ray.corpus.files.json_lines import read_json_lines
from s2l_ray.corpus.files.parquet import read_parquet
from s2l_ray.corpus.files.source import SourceFile, fault_of
from s2l_ray.corpus.rows import Batch, SourceRow, one_by_one
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
            if file.partitions:
                yield from _partitioned(each, file.partitions)
            else:
                yield each
    # UnicodeError: a column's name
    except (pa.ArrowException, OSError, EOFError, lzma.LZMAError, UnicodeError) as error:
        why = fault_of(file) or printable(str(error))
        raise ValueError(f"{file.name}: cannot be read as {file.format}: {why}") from error


def _partitioned(rows: SourceRow | Batch, columns: dict[str, str]) -> Iterator[SourceRow]:
    for row in one_by_one([rows]):
        if isinstance(row.content, dict):
            row = row._replace(content=columns | row.content)
        yield row
