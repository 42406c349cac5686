"""The rows of one file, in bounded memory, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.arrow import read_arrow
from s2l_ray.corpus.files.hub import read_hub
from s2l_ray.corpus.files.json_lines import read_json_lines
from s2l_ray.corpus.files.parquet import read_parquet
from s2l_ray.corpus.files.source import SourceFile, filesystem_of
from s2l_ray.corpus.rows import SourceRow

READERS = {"jsonl": read_json_lines, "parquet": read_parquet, "arrow": read_arrow}


def read_rows(file: SourceFile, config: CorpusConfig) -> Iterator[SourceRow]:
    """Yield every row of a file. ValueError if the file cannot be read."""
    try:
        if file.format == "hub":
            yield from read_hub(file, config.split)
        else:
            yield from READERS[file.format](file, filesystem_of(file))
    # UnicodeError: a column's name
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(f"{file.name}: cannot be read as {file.format}: {error}") from error
