"""JSON lines: one object per line, compressed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.foreign import foreign
from s2l_ray.corpus.files.source import SourceFile, open_text
from s2l_ray.corpus.rows import DECODER, BadRow, SourceRow

BOM = b"\xef\xbb\xbf"
SHOWN = 1000  # characters that are kept of a row that is too long


def read_json_lines(file: SourceFile, config: CorpusConfig) -> Iterator[SourceRow]:
    """Yield a row per line that is not blank, numbered by line from 1.

    If the file is a range, yield those of the lines that begin in it. ValueError if the file holds
    one list of rows, which is no JSON lines.
    """
    limit, blank = config.max_row_bytes, True
    with open_text(file) as stream:
        for number, (line, size) in enumerate(_lines(stream, file, limit), file.first):
            if not line.strip():
                continue
            row = row_of(line, number) if size <= limit else cut(number, line, size, limit)
            if blank and file.first == 1 and _opens_list(line, row.content):
                raise ValueError(
                    f"{file.name}: expected a JSON object per line, got a list; let its name end "
                    "in .json, or set corpus.format: json"
                )
            blank = False
            yield row


def _lines(stream: BinaryIO, file: SourceFile, limit: int) -> Iterator[tuple[bytes, int]]:
    """Yield each line and its size; of a line over the limit, only its start."""
    place = max(0, file.start - 1)
    if file.start:  # the rest of a line that begins before, or the end of one
        stream.seek(place)
        place += skip_line(stream, b" ") - 1
    while not file.stop or place < file.stop:
        line = stream.readline(limit + 2)
        if not line:
            return
        size = len(line)
        if size > limit:
            size = skip_line(stream, line)
        if not place:
            line = line.removeprefix(BOM)
        place += size
        if limit < size <= limit + 2:
            size = len(line.rstrip(b"\r\n"))
        yield line, size


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
    except (ValueError, RecursionError) as error:  # a huge number, deep nesting
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
