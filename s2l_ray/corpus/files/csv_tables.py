"""CSV and TSV: a line of column names, then a row per record. All values are text.

Python's csv module, not pyarrow's: it tells the line of each record, refuses a quote that is never
closed (pyarrow takes the rest of the file for one value), and faults concern single rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, BinaryIO

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.foreign import foreign
from s2l_ray.corpus.files.json_lines import BOM
from s2l_ray.corpus.files.source import SourceFile, open_text
from s2l_ray.corpus.rows import MAX_COLUMNS, BadRow, SourceRow, first_repeated

DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_csv(file: SourceFile, config: CorpusConfig) -> Iterator[SourceRow]:
    """Yield every record, numbered by the line that it starts on; the column names are on line 1.

    Quotes as in pandas: a quoted value may hold delimiters, line breaks and doubled quotes.
    OSError if a quote is never closed, or if a column name repeats.
    """
    limit = config.max_row_bytes
    csv.field_size_limit(limit)  # of the process; the default is 128 KiB
    with open_text(file) as stream:
        lines = _Lines(stream, limit)
        records = csv.reader(lines, delimiter=DELIMITERS[file.format], strict=True)
        names: list[str] | None = None
        while True:
            first = lines.number + 1
            lines.begin()
            try:
                values = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                if lines.ended or names is None:
                    raise OSError(f"line {first}: {error}") from None
                yield SourceRow(first, lines.printable(), BadRow("not CSV", str(error)))
                continue
            if names is None:
                names = _names(values)
            elif values:  # a blank line is no row
                yield SourceRow(first, lines.printable(), _content(names, values))


class _Lines:
    """The lines of a stream as text, for csv.reader. Bytes that are not UTF-8 become surrogates."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.limit = stream, limit
        self.number = 0  # of the last line
        self.texts = list[str]()  # of the lines of the record
        self.size = 0  # of these
        self.ended = False

    def begin(self) -> None:
        """Begin a record."""
        self.texts, self.size = [], 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.stream.readline(self.limit + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(BOM)
            if fault := foreign(line):
                raise OSError(fault.reason)
        self.size += len(line)
        if self.size > self.limit:
            raise OSError(
                f"the record that ends on line {self.number} is longer than "
                f"corpus.max_row_bytes {self.limit:,}; a quote before it may be open"
            )
        text = line.decode(errors="surrogateescape")
        self.texts.append(text)
        return text

    def printable(self) -> str:
        raw = "".join(self.texts).rstrip("\r\n").encode(errors="surrogateescape")
        return raw.decode(errors="replace")


def _names(values: list[str]) -> list[str]:
    if len(values) > MAX_COLUMNS:
        raise OSError(f"expected at most {MAX_COLUMNS:,} columns, got {len(values):,}")
    if (twice := first_repeated(values)) is not None:
        raise OSError(f"duplicate column {twice!r}")
    return values


def _content(names: list[str], values: list[str]) -> Any:
    if len(values) != len(names):
        return BadRow("wrong number of columns", f"expected {len(names)}, got {len(values)}")
    for name, value in zip(names, values, strict=True):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            byte = ord(value[error.start]) & 0xFF
            return BadRow("not UTF-8", f"byte 0x{byte:02x} in column {name!r}")
    return dict(zip(names, values, strict=True))
