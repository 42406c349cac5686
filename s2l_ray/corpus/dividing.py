"""How reading a corpus is divided among Ray tasks.

A task reads a pack of files, or of ranges of large ones, and divides the rows into groups of parts,
so that another task can write all parts of a group. None of this changes what a part holds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.columns import FileColumns
from s2l_ray.corpus.draws import Draws
from s2l_ray.corpus.files.ranges import ranges_of
from s2l_ray.corpus.files.source import MIB, SourceFile
from s2l_ray.corpus.mapping import row_map_of
from s2l_ray.corpus.parsing import parse_batch, parse_rows, settings_of
from s2l_ray.corpus.reading import read_batches
from s2l_ray.corpus.rows import Batch, SourceRow, one_by_one
from s2l_ray.corpus.sources import find_all
from s2l_ray.corpus.trees import is_message
from s2l_ray.execution.nodes import num_cpus
from s2l_ray.execution.parts import fold_parts
from s2l_ray.execution.remote import blocks_of
from s2l_ray.execution.tries import Tries

PART_BYTES = 64 * MIB
SMALL_PACK, LARGE_PACK = 8 * MIB, 64 * MIB  # bytes that a task reads, within these bounds
PACKS_PER_CPU = 4  # aimed at, so that all CPUs finish at about the same time
GROUP_BYTES = 512 * MIB  # of the parts that a task writes, at most
MANY = 500  # packs or groups; above this, they get larger: the driver has a reference for each pair
MOST_DEATHS = 2  # of processes that read a file
SMALL_TABLE = MIB // 4  # bytes of a pack's rows for a group, at least; see execution/shuffle.py


Ranges = list[tuple[int, FileColumns]]  # of files: where they start, and their columns


@dataclass(frozen=True)
class Reading:
    """Rows to read, and how to divide them.

    `function(item, *args)` yields lists of one table of PARSED per group of parts, each in order of
    the parts, and returns the Ranges that it has read and the Draws.
    """

    function: Callable[..., Generator[list[pa.Table], None, tuple[Ranges, Draws]]]
    items: Sequence[Any]
    args: tuple[Any, ...]
    unit: str  # what an item is, for the progress line
    files: list[str]  # names
    num_parts: int
    num_groups: int
    heldout_per_source: int | None
    passed: dict[str, str] = field(default_factory=dict)  # files that are not read, and why


def reading_of_files(
    config: CorpusConfig, seed: int, only: Sequence[SourceFile] | None = None
) -> Reading:
    """only: these files, of those that config.path names."""
    found = find_all(config)
    files = found.files if only is None else only
    total = sum(file.bytes for file in files)
    num_parts, pack = config.num_parts or num_parts_of(total), _pack_bytes(total)
    num_groups = _num_groups(num_parts, total, pack)
    settings = {"config": config, "seed": seed, "num_parts": num_parts}
    settings |= {"row_map": row_map_of(config)}
    packs = _packed(ranges_of(files, pack, _folded), pack)
    names = list(dict.fromkeys(file.name for file in files))
    args = (num_groups, pack, settings, Tries(MOST_DEATHS))
    return Reading(
        _parse_files, packs, args, "packs", names, num_parts, num_groups,
        config.heldout_per_source, found.passed,
    )  # fmt: skip


def reading_of_dataset(
    dataset: ray.data.Dataset, digest: dict[str, int], config: CorpusConfig, seed: int
) -> Reading:
    total = digest["bytes"]
    num_parts, pack = config.num_parts or num_parts_of(total), _pack_bytes(total)
    num_groups = _num_groups(num_parts, total, pack)
    settings = {"config": config, "seed": seed, "num_parts": num_parts}
    settings |= settings_of(dataset, config)
    blocks = blocks_of(dataset)
    args = (num_groups, pack, settings)
    return Reading(
        _parse_block, blocks, args, "blocks", ["dataset"], num_parts, num_groups,
        config.heldout_per_source,
    )  # fmt: skip


def num_parts_of(total: int) -> int:
    """Aim at 64 MB per part, and at up to 32 parts for small corpora, to spread scoring."""
    return min(10_000, max(1, -(-total // PART_BYTES), min(32, -(-total // 500 // 500))))


def _pack_bytes(total: int) -> int:
    even = total // (PACKS_PER_CPU * num_cpus())
    return max(SMALL_PACK, min(even, LARGE_PACK), total // MANY)


def _num_groups(num_parts: int, total: int, pack: int) -> int:
    """Return how many tasks write the parts: one per CPU if the corpus is large enough for that."""
    wanted = max(min(num_cpus(), 2 * total // SMALL_PACK), total // max(GROUP_BYTES, total // MANY))
    return max(1, min(num_parts, wanted, pack // SMALL_TABLE))


def _packed(files: Iterable[SourceFile], size: int) -> list[list[SourceFile]]:
    """Put small files together, up to `size` bytes. The largest packs come first."""
    packs = list[list[SourceFile]]()
    room = 0
    for file in sorted(files, key=lambda file: file.bytes, reverse=True):
        if not packs or file.bytes > room:
            packs.append([])
            room = size
        packs[-1].append(file)
        room -= file.bytes
    return packs


def check_ranges(ranges: Ranges) -> None:
    """Raise ValueError if a file that was read by ranges lacks columns: see FileColumns."""
    files = dict[str, FileColumns]()
    for _, columns in sorted(ranges, key=lambda each: each[0]):
        if columns.file in files:
            files[columns.file].merge(columns)
        else:
            files[columns.file] = columns
    for columns in files.values():
        columns.check()


def _folded(function: Callable[[Any], Any], files: Iterable[SourceFile]) -> Iterator[Any]:
    """Call a function on files, in order, in Ray tasks."""
    return fold_parts(_looked_at, files, function, Tries(MOST_DEATHS))


def _looked_at(file: SourceFile, function: Callable[[SourceFile], Any], tries: Tries) -> Any:
    with reading(tries, file):
        return function(file)


def reading(tries: Tries, file: SourceFile) -> AbstractContextManager[None]:
    """Note that the block reads a file, so that one whose readers die ends the run by its name."""
    advice = "If the file is damaged or too large to read, leave it out of corpus.path"
    return tries.of(f"{file.name} {file.start}", f"{file.name}: its reader", advice)


def _parse_files(
    files: list[SourceFile], num_groups: int, pack: int, settings: dict[str, Any], tries: Tries
) -> Generator[list[pa.Table], None, tuple[Ranges, Draws]]:
    config, ranges = settings["config"], Ranges()
    draws = Draws(config.heldout_per_source)

    def tables() -> Iterator[pa.Table]:
        for file in files:
            first, whole = file.start == 0, file.stop == 0
            with reading(tries, file):
                columns = yield from parse_rows(
                    _rows(file, config), file.name, first=first, whole=whole, **settings
                )
            if not whole:
                ranges.append((file.start, columns))

    yield from _by_group(tables(), num_groups, pack, settings["num_parts"], draws)
    return ranges, draws


def _rows(file: SourceFile, config: CorpusConfig) -> Iterator[SourceRow | Batch]:
    """Yield the rows of a file, or of a range.

    The first range of a file of trees.py has all of them, as trees may cross ranges.
    """
    rows = read_batches(file, config)
    if not file.stop or config.map:
        return rows
    head = list[SourceRow | Batch]()
    for each in rows:
        head.append(each)
        contents = (row.content for row in one_by_one([each]))
        content = next((content for content in contents if isinstance(content, dict)), None)
        if content is not None:
            if not is_message(content):
                break
            return iter(()) if file.start else read_batches(replace(file, stop=0), config)
    return chain(head, rows)


def _parse_block(
    block: pa.Table, num_groups: int, pack: int, settings: dict[str, Any]
) -> Generator[list[pa.Table], None, tuple[Ranges, Draws]]:
    draws = Draws(settings["config"].heldout_per_source)
    tables = (parse_batch(batch, **settings) for batch in block.to_batches(max_chunksize=1000))
    parsed = chain.from_iterable(tables)
    yield from _by_group(parsed, num_groups, pack, settings["num_parts"], draws)
    return [], draws


def _by_group(
    tables: Iterable[pa.Table], num_groups: int, pack: int, num_parts: int, draws: Draws
) -> Iterator[list[pa.Table]]:
    """Collect tables up to the size of a pack, and divide their rows by group, in order of parts.

    A task may read more than a pack: a large compressed file cannot be divided.
    """
    chunk, size = list[pa.Table](), 0
    for table in chain(tables, [None]):
        if table is not None:
            chunk.append(table)
            size += table.nbytes
        if chunk and (table is None or size > 2 * pack):
            whole = pa.concat_tables(chunk).combine_chunks()
            draws.add(whole)
            parts = whole["part"].to_numpy()
            order = np.argsort(parts, kind="stable")
            whole, parts = whole.take(pa.array(order)), parts[order].astype(np.int64)
            edges = np.searchsorted(parts * num_groups // num_parts, np.arange(num_groups + 1))
            yield [whole.slice(a, b - a) for a, b in pairwise(edges.tolist())]
            chunk, size = [], 0
