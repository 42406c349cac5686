"""Ranges of large files, so that several tasks read one file.

A range of JSON lines is one of bytes, and holds the lines that begin in it. A range of Parquet is
one of row groups. Compressed JSON lines and Arrow streams are read from the start, by one task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.corpus.files.endings import compression_of
from s2l_ray.corpus.files.source import MIB, SourceFile, open_file

Fold = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


def ranges_of(files: Iterable[SourceFile], size: int, fold: Fold) -> list[SourceFile]:
    """Divide files that are larger than `size` bytes into ranges of about this size.

    fold: how to call a function on many arguments, in order: `map`, or on a cluster.
    """
    pieces, lines, groups = list[SourceFile](), list[SourceFile](), list[SourceFile]()
    for file in files:
        if file.bytes > size and file.format == "jsonl" and compression_of(file.path) is None:
            edges = [*range(0, file.bytes - size // 2, size), file.bytes]
            lines += [replace(file, start=a, stop=b, bytes=b - a) for a, b in pairwise(edges)]
        elif file.bytes > size and file.format == "parquet":
            groups.append(file)
        else:
            pieces.append(file)
    before = 0  # line ends in the ranges before, in the same file
    for piece, found in zip(lines, fold(_line_ends, lines), strict=True):
        pieces.append(replace(piece, first=before + 2 if piece.start else 1))
        before = found + (before if piece.start else 0)
    for file, rows in zip(groups, fold(_group_rows, groups), strict=True):
        pieces += _row_groups(file, rows, size)
    return pieces


def _line_ends(piece: SourceFile) -> int:
    """Count the line ends in a range moved back by a byte.

    If these are n in the ranges before, line n + 1 reaches into this range or ends right before it,
    and line n + 2 is the first to begin in it.
    """
    found, place, stop = 0, max(0, piece.start - 1), piece.stop - 1
    try:
        with open_file(piece) as data:
            while place < stop and (block := data.read_at(min(8 * MIB, stop - place), place)):
                found += block.count(b"\n")
                place += len(block)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{piece.name}: cannot be read as {piece.format}: {error}") from error
    return found


def _group_rows(file: SourceFile) -> list[int]:
    """Return the number of rows of each row group; none if the file is not Parquet."""
    try:
        with open_file(file) as data:
            about = pq.read_metadata(data)
        return [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    except (pa.ArrowException, OSError):  # reading the file says so
        return []


def _row_groups(file: SourceFile, rows: list[int], size: int) -> list[SourceFile]:
    """Divide a file by its row groups, about equally by rows."""
    total = sum(rows)
    if not total:
        return [file]
    count = min(len(rows), -(-file.bytes // size))
    before = [0, *accumulate(rows)]
    edges = sorted({_nearest(before, total * n / count) for n in range(count + 1)})
    return [
        replace(
            file,
            start=a,
            stop=b,
            first=before[a] + 1,
            bytes=file.bytes * (before[b] - before[a]) // total,
        )
        for a, b in pairwise(edges)
    ]


def _nearest(values: list[int], wanted: float) -> int:
    return min(range(len(values)), key=lambda index: abs(values[index] - wanted))
