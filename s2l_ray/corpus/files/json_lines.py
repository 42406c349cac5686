"""JSON lines: one object per line, compressed or not."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.json

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.foreign import foreign
from s2l_ray.corpus.files.plain import is_plain
from s2l_ray.corpus.files.source import SourceFile, open_text
from s2l_ray.corpus.rows import DECODER, MAX_COLUMNS, BadRow, SourceRow

BOM = b"\xef\xbb\xbf"
SHOWN = 1000  # characters that are kept of a row that is too long
BLOCK = 2**20  # bytes of lines that are parsed together
MOST_BYTES = 2**28  # of rows that are read by columns: pyarrow's columns of text hold 2 GiB
DEEP = 2000  # pyarrow overflows its stack at some 10,000 nested values
COLON = re.compile(rb'"\s*:')
SPACE = np.isin(np.arange(256), list(b" \t\r\n"))
LONG_KEY = 32  # bytes
SOME = 2**16  # keys that are looked at together
CELLS = 2**22  # of lines that are read by columns: a key of one line is a column of all


def read_json_lines(file: SourceFile, config: CorpusConfig) -> Iterator[SourceRow | Lines]:
    """Yield the lines that are not blank, numbered from 1: the first as a row, then many together.

    If the file is a range, yield those that begin in it. ValueError if the file holds one list of
    rows, which is no JSON lines.
    """
    limit, number, opening = config.max_row_bytes, file.first, True
    with open_text(file) as stream:
        for data, size in _pieces(stream, file, limit):
            if not (opening or size):
                yield Lines(data, number)
                number += data.count(b"\n")
                continue
            if data.strip():
                row = cut(number, data, size, limit) if size else row_of(data, number)
                if opening and file.first == 1 and _opens_list(data, row.content):
                    raise ValueError(
                        f"{file.name}: expected a JSON object per line, got a list; let its name "
                        "end in .json, or set corpus.format: json"
                    )
                opening = False
                yield row
            number += 1


def _pieces(stream: BinaryIO, file: SourceFile, limit: int) -> Iterator[tuple[bytes, int]]:
    """Yield whole lines and 0, or the start of a line over the limit and its size.

    The lines up to the first that is not blank come one by one.
    """
    place, together = max(0, file.start - 1), 0
    if file.start:  # the rest of a line that begins before, or the end of one
        stream.seek(place)
        place += skip_line(stream, b" ") - 1
    while not file.stop or place < file.stop:
        data = stream.read(min(together, file.stop - place) if file.stop else together)
        if not data.endswith(b"\n"):
            data += stream.readline(limit + 2)
        if not data:
            return
        last = data.rfind(b"\n", 0, -1) + 1  # only the last line can be over the limit
        size = len(data) - last
        if size > limit:
            size = skip_line(stream, data[last:])
        if not place:
            data = data.removeprefix(BOM)
        place += last + size
        if limit < size <= limit + 2:
            size = len(data[last:].rstrip(b"\r\n"))
        whole, line = (data[:last], data[last:]) if size > limit else (data, b"")
        if whole:
            yield whole, 0
        if line:
            yield line[: limit + 2], size
        if data.strip():
            together = min(BLOCK, limit)


@dataclass(frozen=True)
class Lines:
    """Whole lines of JSON, none of them over the limit: a Batch of rows."""

    data: bytes
    first: int  # number of the first line
    typed: ClassVar[bool] = False

    def rows(self, index: Sequence[int] | None = None) -> Iterator[SourceRow]:
        if index is None:
            for number, line in enumerate(io.BytesIO(self.data), self.first):
                if line.strip():
                    yield row_of(line, number)
        else:
            lines = self.data.split(b"\n")
            yield from (row_of(lines[place], self.first + place) for place in index)

    def numbers(self, index: np.ndarray) -> np.ndarray:
        return self.first + index

    def table(self) -> pa.RecordBatch | None:
        count = _objects(self.data) if len(self.data) <= MOST_BYTES else 0
        # There are no more keys than colons, which is quick to see.
        if not count or all(count * n(self.data) > CELLS for n in (_num_colons, _num_keys)):
            return None
        try:
            self.data.decode()
            table = pyarrow.json.read_json(
                pa.BufferReader(self.data),
                read_options=pyarrow.json.ReadOptions(
                    use_threads=False, block_size=len(self.data) + 1
                ),
            )
        except (UnicodeDecodeError, pa.ArrowException):
            return None
        if table.num_rows != count or table.num_columns > MAX_COLUMNS:
            return None
        [batch] = table.combine_chunks().to_batches()
        return batch if all(is_plain(each, of_json=True) for each in batch.columns) else None


def _objects(data: bytes) -> int:
    """Return the number of lines if each is one object, provided that the whole is JSON.

    0 if a line does not begin and end with a brace, or has so many brackets that parsing it might
    exhaust the stack.
    """
    found = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(found == ord("\n"))
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (found[starts] != ord("{")).any():
        return 0
    last = found[ends - 1]
    last = np.where(last == ord("\r"), found[ends - 2], last)
    # The codes of [ and { differ in one bit.
    opened = np.add.reduceat((found & 0xDF) == ord("["), starts, dtype=int)
    return len(ends) if (last == ord("}")).all() and opened.max() <= DEEP else 0


def _num_colons(data: bytes) -> int:
    return data.count(b":")


def _num_keys(data: bytes) -> int:
    """Count the distinct keys of JSON; those longer than LONG_KEY count each time."""
    found = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(found == ord('"'))
    after = found[np.minimum(quotes + 1, len(found) - 1)]
    if SPACE[after].any():  # perhaps before a colon
        ends = np.array([match.start() for match in COLON.finditer(data)], int)
    else:
        ends = quotes[after == ord(":")]
    short, long = set[bytes](), 0
    for first in range(0, len(ends), SOME):  # each key takes hundreds of bytes here
        some = ends[first : first + SOME, None]
        keys = found[np.maximum(some + np.arange(-LONG_KEY, 0), 0)]
        before = np.maximum.accumulate(keys[:, ::-1] == ord('"'), axis=1)[:, ::-1]
        keys[before] = 0  # what is before the quote that begins a key
        texts = keys.tobytes()
        short.update(texts[at : at + LONG_KEY] for at in range(0, len(texts), LONG_KEY))
        long += int((~before[:, 0]).sum())
    return len(short) + long


def row_of(line: bytes, number: int) -> SourceRow:
    """Parse a line, or any other piece of JSON."""
    if number == 1 and (fault := foreign(line)):
        return SourceRow(number, line.decode(errors="replace").rstrip("\r\n"), fault)
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        bad = BadRow("not UTF-8", f"byte 0x{line[error.start]:02x} at byte {error.start + 1}")
        return SourceRow(number, line.decode(errors="replace").rstrip("\r\n"), bad)
    try:
        content: Any = DECODER.decode(text)
    except BadRow as bad:
        content = bad
    except json.JSONDecodeError as error:
        content = BadRow("not JSON", f"{error.msg} at character {error.pos + 1}")
    except ValueError as error:  # a huge number
        content = BadRow("not JSON", str(error))
    return SourceRow(number, text, content)


def cut(number: int, start: bytes, size: int, limit: int) -> SourceRow:
    """Make the row that stands for one of `size` bytes, too many, which begins with `start`."""
    text = start[: 4 * SHOWN].decode(errors="replace")[:SHOWN]
    return SourceRow(number, text, over_limit(size, limit))


def over_limit(size: int, limit: int) -> BadRow:
    detail = f"{size:,} bytes; the limit is {limit:,}"
    return BadRow("longer than corpus.max_row_bytes", detail)


def skip_line(stream: BinaryIO, line: bytes) -> int:
    """Read on to the end of a line; return its length."""
    size = len(line)
    while line and not line.endswith(b"\n"):
        line = stream.readline(2**20)
        size += len(line)
    return size


def _opens_list(line: bytes, content: Any) -> bool:
    """Return whether a first line is, or begins, a list of objects."""
    text = line.strip()
    begins = text.startswith(b"[") and text[1:].lstrip()[:1] in (b"", b"{")
    return begins and isinstance(content, (BadRow, list))
