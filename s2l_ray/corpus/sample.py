"""A sample of a corpus's rows, and how many rows there probably are. Starts no Ray, and reads no
large file from end to end."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.dividing import num_parts_of
from s2l_ray.corpus.draws import Draws
from s2l_ray.corpus.files.batches import Slice
from s2l_ray.corpus.files.endings import compression_of
from s2l_ray.corpus.files.json_lines import Lines
from s2l_ray.corpus.files.source import MIB, SourceFile, open_file
from s2l_ray.corpus.mapping import row_map_of
from s2l_ray.corpus.parsing import parse_rows
from s2l_ray.corpus.reading import read_batches
from s2l_ray.corpus.rows import Batch, SourceRow
from s2l_ray.corpus.sources import resolve
from s2l_ray.store.schemas import EXAMPLES

PLACES = 32  # of the sample, spread evenly over the corpus's bytes
PLACE = MIB // 16  # bytes that are read at each
TIMED = MIB  # bytes that reading is timed with
WHOLE = 16 * MIB  # bytes that are read of files that cannot be entered in the middle
FOOTERS = 100  # Parquet files whose rows are counted by their footers


class Sample(NamedTuple):
    """Rows of a corpus.

    rows: of the whole corpus, an estimate unless `counted`. bytes: of its files, uncompressed.
    examples: those of the sample that would be trained on, in schemas.EXAMPLES. heldout, rejected:
    how many others the sample has. seconds: CPU time of reading and parsing a row. num_parts: of
    the corpus.
    """

    rows: int
    counted: bool
    bytes: int
    examples: pa.Table
    heldout: int
    rejected: int
    seconds: float
    num_parts: int

    @property
    def sampled(self) -> int:
        return self.examples.num_rows + self.heldout + self.rejected


def sample(
    config: CorpusConfig, *, seed: int, told: Callable[[str], None] = lambda name: None
) -> Sample:
    """Sample the corpus at config.path. ValueError if it cannot be read or the sample is empty.

    A sample does not show how many rows are exact duplicates, so none are taken off. told: called
    with the name of each file before it is read.
    """
    files = resolve(config)
    assumed = sum(file.bytes for file in files)
    files = [replace(file, bytes=round(file.bytes * _expansion(file, told))) for file in files]
    total = sum(file.bytes for file in files)
    places = files if total <= PLACES * PLACE else [*_places(files, total, told)]
    settings: dict[str, Any] = {"config": config, "seed": seed, "num_parts": 1}
    settings |= {"row_map": row_map_of(config)}
    tables, size, ended = list[pa.Table](), 0, 0
    for place in places:
        told(place.name)
        head = _Head(place, config, PLACE if places is not files and _enterable(place) else WHOLE)
        # Columns that all rows of a place lack are no fault: other rows may have them.
        tables += parse_rows(head, place.name, first=place.start == 0, whole=False, **settings)
        size += place.bytes if head.ended else head.bytes
        ended += head.ended and not place.stop
    table = pa.concat_tables(tables)
    if not table.num_rows or not size:
        raise ValueError("corpus.path: the sample has no row")
    whole = ended == len(places) == len(files)
    rows = table.num_rows if whole else _by_footers(files, config.share, told)
    good = table.filter(pc.is_valid(table["example_id"]))
    kept = good.filter(pc.invert(good["heldout"].fill_null(False)))
    middle = places[len(places) // 2]
    told(middle.name)
    return Sample(
        rows=round(total * table.num_rows / size) if rows is None else rows,
        counted=rows is not None,
        bytes=total,
        examples=kept.select(EXAMPLES.names).cast(EXAMPLES),
        heldout=_held(good, config) or good.num_rows - kept.num_rows,
        rejected=table.num_rows - good.num_rows,
        seconds=_seconds(middle, settings),
        num_parts=config.num_parts or num_parts_of(assumed),
    )


def _held(good: pa.Table, config: CorpusConfig) -> int:
    """Return how many of a sample are held out, if it is so many of each source."""
    draws = Draws(config.heldout_per_source)
    draws.add(good)
    hashes = draws.heldout()
    return 0 if hashes is None else len(hashes)


class _Head:
    """The first rows of a place: up to about `most` bytes.

    bytes: of the rows, roughly as they are in the file. ended: whether they are all of the place.
    """

    def __init__(self, place: SourceFile, config: CorpusConfig, most: int) -> None:
        self.rows, self.most = read_batches(place, config), most
        self.bytes, self.ended = 0, False

    def __iter__(self) -> Iterator[SourceRow | Batch]:
        for each in self.rows:
            if self.bytes >= self.most:
                return
            self.bytes += _bytes_of(each)
            yield each
        self.ended = True


def _seconds(place: SourceFile, settings: dict[str, Any]) -> float:
    """Return the CPU time of a row of a longer place: the first rows of one take longer."""
    if place.stop and place.format == "jsonl":
        place = replace(place, stop=place.start + TIMED)
    head, began = _Head(place, settings["config"], TIMED), time.process_time()
    tables = parse_rows(head, place.name, first=place.start == 0, whole=False, **settings)
    rows = sum(table.num_rows for table in tables)
    return (time.process_time() - began) / max(1, rows)


def _bytes_of(rows: SourceRow | Batch) -> int:
    rows = getattr(rows, "batch", rows) if not isinstance(rows, Slice) else rows
    if isinstance(rows, Lines):
        return len(rows.data)
    if isinstance(rows, Slice):
        return rows.batch.nbytes
    assert isinstance(rows, SourceRow)
    if rows.text is not None:
        return len(rows.text.encode(errors="replace")) + 1
    values: Iterable[Any] = rows.content.values() if isinstance(rows.content, dict) else ()
    return sum(len(str(value).encode(errors="replace")) + 1 for value in values)


def _places(
    files: list[SourceFile], total: int, told: Callable[[str], None]
) -> Iterator[SourceFile]:
    """Yield places at even distances in the bytes of all files, each file of another format once:
    from its start, or of Parquet the row group there."""
    ends, seen = list(accumulate(file.bytes for file in files)), set[tuple[str, int]]()
    for number in range(PLACES):
        position = int((number + 0.5) * total / PLACES)
        index = bisect_right(ends, position)
        file, within = files[index], position - (ends[index] - files[index].bytes)
        told(file.name)
        place = _place(file, within / file.bytes)
        if (key := (place.name, place.start)) not in seen:
            seen.add(key)
            yield place


def _place(file: SourceFile, where: float) -> SourceFile:
    """Return the part of a file to read from. where: 0 is its start, 1 its end."""
    if file.format == "jsonl" and _enterable(file):
        if file.bytes <= 2 * PLACE:
            return file
        start = round(where * (file.bytes - PLACE))
        # Rows of a range have other numbers than 1, which only the first line of a file has.
        return replace(file, start=start, stop=start + PLACE, first=2 if start else 1, bytes=PLACE)
    if file.format == "parquet":
        groups = _footer(file)
        if len(groups) > 1:
            group = min(int(where * len(groups)), len(groups) - 1)
            share = file.bytes * groups[group] // max(1, sum(groups))
            return replace(file, start=group, stop=group + 1, bytes=share)
    return file


def _enterable(file: SourceFile) -> bool:
    """Whether reading can begin in the middle."""
    return file.format in ("jsonl", "parquet") and compression_of(file.path) is None


def _expansion(file: SourceFile, told: Callable[[str], None]) -> float:
    """Return how many times the size that SourceFile assumes a compressed text has."""
    kind = compression_of(file.path)
    if kind in (None, "xz"):
        return 1.0
    told(file.name)
    try:
        with open_file(file) as data, pa.CompressedInputStream(data, kind) as text:
            found = len(text.read(WHOLE))
            return found / data.tell() / 4 if found == WHOLE else found / max(1, file.bytes)
    except (pa.ArrowException, OSError):  # reading it says so
        return 1.0


def _by_footers(files: list[SourceFile], share: float, told: Callable[[str], None]) -> int | None:
    """Count the rows of Parquet files. None for other files, for more than FOOTERS, and for a
    share of the rows."""
    if len(files) > FOOTERS or share < 1 or any(file.format != "parquet" for file in files):
        return None
    rows = 0
    for file in files:
        told(file.name)
        rows += sum(_footer(file))
    return rows


def _footer(file: SourceFile) -> list[int]:
    """Return the rows of each row group; none if the file cannot be read, which reading it says."""
    try:
        with open_file(file) as data:
            about = pq.read_metadata(data)
        return [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    except (pa.ArrowException, OSError):
        return []
