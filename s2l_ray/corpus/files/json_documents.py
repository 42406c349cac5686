"""JSON documents, streamed: a list of rows, an object that holds one, rows by key, or one row.

Files that end in .json may also be JSON lines; the content decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BufferedReader
from itertools import chain
from typing import BinaryIO

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.columns import CHATS, PAIRS
from s2l_ray.corpus.files.foreign import foreign
from s2l_ray.corpus.files.json_lines import BOM, Lines, cut, read_json_lines, row_of, skip_line
from s2l_ray.corpus.files.scanner import Scanner
from s2l_ray.corpus.files.source import SourceFile, open_text
from s2l_ray.corpus.rows import SourceRow

HEAD = 2**16  # bytes of a value that tell what it is
SPEAKERS = {"role", "from"}  # keys of messages: a list of these is a conversation, no list of rows


def read_json(file: SourceFile, config: CorpusConfig) -> Iterator[SourceRow | Lines]:
    """Yield every row: numbered by line in JSON lines, else from 1 in the order of the file.

    OSError if the file is cut short, or holds several lists of objects.
    """
    limit = config.max_row_bytes
    with open_text(file) as stream:
        kind = _kind_of(stream, limit)
    if kind == "lines":
        yield from read_json_lines(file, config)
        return
    inside = None
    if kind == "object":
        with open_text(file) as stream:
            kind, inside = _inside(Scanner(stream), config)
    with open_text(file) as stream:
        scanner = Scanner(stream)
        if kind == "list":
            pieces = scanner.items(limit) if inside is None else _within(scanner, inside, limit)
        elif kind == "keys":
            pieces = (scanner.piece(limit, b",}") for _ in scanner.members())
        else:
            pieces = iter([scanner.piece(limit)])
        for number, (piece, size) in enumerate(pieces, 1):
            yield row_of(piece, number) if size <= limit else cut(number, piece, size, limit)
        scanner.end()


def _kind_of(stream: BufferedReader, limit: int) -> str:
    """Tell "lines", a "list" and an "object" apart, by the first two lines that are not blank."""
    if stream.peek(len(BOM)).startswith(BOM):
        stream.read(len(BOM))
    line = _next_line(stream, limit)
    if fault := foreign(line):
        raise OSError(fault.reason)
    text = line.lstrip()
    if text.startswith(b"["):
        return "list"
    if not text.startswith(b"{"):
        return "lines"
    whole = len(line) > limit or isinstance(row_of(text, 2).content, dict)
    skip_line(stream, line)
    second = _next_line(stream, limit).lstrip()
    return "lines" if second and (whole or second.startswith(b"{")) else "object"


def _next_line(stream: BinaryIO, limit: int) -> bytes:
    """Return the next line that is not blank, or its start, or nothing at the end."""
    return next(
        (line for line in iter(lambda: stream.readline(limit + 1), b"") if line.strip()), b""
    )


def _inside(scanner: Scanner, config: CorpusConfig) -> tuple[str, str | None]:
    """Return what an object is: a "list" of rows under a key, rows by "keys", or one "row"."""
    known = {*CHATS, *chain(*PAIRS), *config.columns.values()}
    lists, others, is_row = list[str](), 0, False
    for key in scanner.members():
        start = scanner.peek()
        head, _ = scanner.piece(HEAD, b",}")
        is_row = is_row or key in known
        if start == b"[" and len(lists) < 5 and _is_list_of_rows(head):
            lists.append(key)
        others += start != b"{"
    scanner.end()
    if is_row:
        return "row", None
    if len(lists) > 1:
        raise OSError(
            f"several lists of objects, {' and '.join(map(repr, lists))}; expected one; put "
            "each into a file of its own"
        )
    if lists:
        return "list", lists[0]
    return ("row", None) if others else ("keys", None)


def _is_list_of_rows(text: bytes) -> bool:
    """Return whether the start of a list shows objects that are no messages."""
    try:
        first, _ = json.JSONDecoder().raw_decode(text[1:].decode(errors="ignore").lstrip())
    except (ValueError, RecursionError):  # longer than the start
        return text[1:].lstrip().startswith(b"{")
    return isinstance(first, dict) and not SPEAKERS & first.keys()


def _within(scanner: Scanner, wanted: str, limit: int) -> Iterator[tuple[bytes, int]]:
    """Yield the items of the list under a key."""
    for key in scanner.members():
        if key == wanted:
            yield from scanner.items(limit)
        scanner.piece(HEAD, b",}")
