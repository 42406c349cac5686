"""JSON lines: one object per line, compressed or not."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow.fs as pafs

from s2l_ray.corpus.files.finding import COMPRESSED
from s2l_ray.corpus.files.source import MIB, SourceFile
from s2l_ray.corpus.rows import DECODER, BadRow, SourceRow


def read_json_lines(file: SourceFile, filesystem: pafs.FileSystem) -> Iterator[SourceRow]:
    """Yield a row per line that is not blank, numbered by line from 1.

    If the file is a range, yield those of the lines that begin in it.
    """
    if not file.bytes and file.path.endswith(COMPRESSED):
        raise OSError("cut short: 0 bytes")
    if file.stop:
        with filesystem.open_input_file(file.path) as data:
            yield from _parsed(_lines_of_range(data, file), file)
        return
    with filesystem.open_input_stream(file.path, compression="detect") as stream:
        yield from _parsed(io.BufferedReader(stream, MIB), file)


def _lines_of_range(data: Any, file: SourceFile) -> Iterator[bytes]:
    place = max(0, file.start - 1)
    data.seek(place)
    stream = io.BufferedReader(data, MIB)
    if file.start:  # the rest of a line that begins before, or the end of one
        place += len(stream.readline())
    while place < file.stop and (line := stream.readline()):
        place += len(line)
        yield line


def _parsed(lines: Iterable[bytes], file: SourceFile) -> Iterator[SourceRow]:
    """Parse lines and number them. Blank lines are not rows."""
    seen = 0
    for number, line in enumerate(lines, file.first):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        seen += 1
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            bad = BadRow("not UTF-8", f"byte 0x{line[error.start]:02x} at byte {error.start + 1}")
            yield SourceRow(number, line.decode(errors="replace").rstrip("\r\n"), bad)
            continue
        try:
            content: Any = DECODER.decode(text)
        except BadRow as bad:
            content = bad
        except json.JSONDecodeError as error:
            if seen == 1 and file.first == 1 and text.strip() == "[":
                raise ValueError(
                    f"{file.name}: expected a JSON object per line, got a list"
                ) from None
            content = BadRow("not JSON", f"{error.msg} at character {error.pos + 1}")
        except (ValueError, RecursionError) as error:  # a huge number, deep nesting
            content = BadRow("not JSON", str(error))
        yield SourceRow(number, text, content)
