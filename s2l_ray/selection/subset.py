"""The subset of a selection: the rows of the chosen examples, brought from the corpus into parts in
rank order, and spread again for training.

Two waves of tasks (execution/shuffle.py). The first sends each example to the part of the subset
that its bin belongs to, or to all of them if the bin crosses their borders; the second knows all
members of its bins, hence the exact place of each. G groups, S parts of the subset, R ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.execution.shuffle import gather, scatter
from s2l_ray.selection import histogram as bins
from s2l_ray.selection.histogram import Histogram, Order, lengths_in, rows_in
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, SUBSET, WEIGHTED, completed

MOST_PARTS = 500  # of a subset; larger subsets have larger parts
PIECES = 20_000  # tables between the two waves, about
SENT_BYTES = 256 << 20  # that a task of the first wave holds before it sends them

_SENT = pa.schema([*EXAMPLES, ("group", pa.int32()), ("score", pa.float64()),
                   ("length", pa.int64())])  # fmt: skip


def write_subset(
    store: Store,
    quotas: np.ndarray,
    histogram: Histogram,
    order: Order,
    groups: Manifest,
    corpus: Manifest,
    tokens: Manifest,
    folder: str,
    clustered: bool,
    reasons: list[str],
    weights_G: np.ndarray | None = None,
) -> tuple[list[Part], dict[str, int], int]:
    """Write the first `quotas` examples of each group in rank order: by place within their group,
    then by group. Return the parts, examples by source, and the sum of their tokens.

    weights_G: training weights of each group's examples, if they have any.
    """
    count = int(quotas.sum())
    ends_SG = ends_of(quotas, np.append(np.arange(0, count, part_rows(count)), count))
    cells = _owners(histogram, quotas, ends_SG)
    num_parts = len(ends_SG) - 1
    rows = _beside(groups, corpus, tokens)
    pieces: list[list[Any]] = [[] for _ in range(num_parts)]
    how = store, order, cells, groups.folder, corpus.folder, tokens.folder
    for found, _ in scatter(_send, _packed(rows, num_parts), num_parts, *how):
        for mine, tables in zip(pieces, found, strict=True):
            mine += tables
    parts, by_source, num_tokens = [], Counter[str](), 0
    args = store, folder, order, histogram.counts_GX, ends_SG, clustered, reasons, weights_G
    for part, sources, length in gather(_write_part, pieces, *args):
        parts.append(part)
        by_source.update(sources)
        num_tokens += length
    assert sum(part.rows for part in parts) == count, "chosen examples were lost"
    return parts, dict(sorted(by_source.items())), num_tokens


def part_rows(count: int) -> int:
    """Return how many of the chosen examples each part of the subset holds, but for the last."""
    return max(bins.SUBSET_ROWS, -(-count // MOST_PARTS))


def ends_of(quotas: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return how many examples of each group are among the first `ranks`: int64 [R, G].

    Ranks go by place, then by group.
    """
    found = np.empty((len(ranks), len(quotas)), np.int64)
    for row, rank in zip(found, ranks.tolist(), strict=True):
        low, high = 0, int(quotas.max(initial=0))
        while low < high:  # the last place that all groups have reached
            middle = (low + high + 1) // 2
            fits = np.minimum(quotas, middle).sum() <= rank
            low, high = (middle, high) if fits else (low, middle - 1)
        row[:] = np.minimum(quotas, low)
        row[np.flatnonzero(quotas > low)[: rank - int(row.sum())]] += 1
    return found


def _owners(
    histogram: Histogram, quotas: np.ndarray, ends_SG: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last part of the subset that each bin of a group belongs to, int16
    [G, X] each; -1 for bins that none is chosen from."""
    counts_GX = histogram.counts_GX
    shape = len(quotas), counts_GX.shape[1] - 1
    first_GX, last_GX = np.full(shape, -1, np.int16), np.full(shape, -1, np.int16)
    for group, quota in enumerate(quotas):
        begins, ends = counts_GX[group, :-1], np.minimum(counts_GX[group, 1:], quota)
        some = begins < ends
        borders = ends_SG[:, group]
        first_GX[group, some] = np.searchsorted(borders, begins[some], "right") - 1
        last_GX[group, some] = np.searchsorted(borders, ends[some] - 1, "right") - 1
    return first_GX, last_GX


def _beside(groups: Manifest, corpus: Manifest, tokens: Manifest) -> Iterator[tuple[Part, ...]]:
    """Yield each part of the groups with those of the same examples in corpus and tokens. Units of
    a cover's ranking have the checkpoint of its features in front."""
    others = [{part.unit: part for part in stage.parts} for stage in (corpus, tokens)]
    for part in groups.parts:
        unit = part.unit.rpartition("/")[2]
        if part.rows:
            if unit not in others[0]:
                raise ValueError(
                    f"{groups.folder}: has a part {part.unit}, which {corpus.folder} has not: the "
                    "groups may come from another corpus"
                )
            yield part, *(each[unit] for each in others)


def _packed(items: Any, num_parts: int) -> list[list[Any]]:
    """Put items together, so that there are not too many pieces between so many parts."""
    items = list(items)
    size = max(1, -(-len(items) * num_parts // PIECES))
    return [items[first : first + size] for first in range(0, len(items), size)]


def _send(
    items: Sequence[tuple[Part, ...]],
    store: Store,
    order: Order,
    cells: tuple[np.ndarray, np.ndarray],
    groups: str,
    corpus: str,
    tokens: str,
) -> Generator[list[pa.Table], None, None]:
    """Yield the rows that may be chosen, a table per part of the subset."""
    first_GX, last_GX = cells
    num_parts = int(last_GX.max()) + 1
    ready: list[list[pa.Table]] = [[] for _ in range(num_parts)]
    held = 0
    for part, texts, lengths in items:
        ids, group, score = order.read(store, part)
        cell = group, order.bins_of(ids, score)
        first, last = first_GX[cell].astype(np.int64), last_GX[cell].astype(np.int64)
        here = np.flatnonzero(first >= 0)
        if not len(here):
            continue
        ids, group, score, first, last = (x[here] for x in (ids, group, score, first, last))
        table = completed(store.read_part(corpus, texts), EXAMPLES)
        at = rows_in(store, corpus, texts, table["example_id"], ids)
        added = [group, score, lengths_in(store, tokens, lengths, ids)]
        table = pa.Table.from_arrays([*table.take(at).columns, *map(pa.array, added)], schema=_SENT)
        copies = last - first + 1  # 1 but for bins that cross a border
        row = np.repeat(np.arange(len(ids)), copies)
        owner = first[row] + np.arange(len(row)) - np.repeat(copies.cumsum() - copies, copies)
        held += table.nbytes
        for mine, piece in zip(ready, _pieces(table.take(row), owner, num_parts), strict=True):
            mine.append(piece)
        if held > SENT_BYTES:
            yield [pa.concat_tables(mine) for mine in ready]
            ready, held = [[] for _ in range(num_parts)], 0
    if held:
        yield [pa.concat_tables(mine) for mine in ready]


def _write_part(
    number: int,
    tables: Sequence[pa.Table],
    store: Store,
    folder: str,
    order: Order,
    counts_GX: np.ndarray,
    ends_SG: np.ndarray,
    clustered: bool,
    reasons: list[str],
    weights_G: np.ndarray | None,
) -> tuple[Part, dict[str, int], int]:
    table = pa.concat_tables(tables)
    ids, group, score = (table[name].to_numpy() for name in ("example_id", "group", "score"))
    by_order = order.sorted(ids, group, score)
    cell = group[by_order].astype(np.int64), order.bins_of(ids[by_order], score[by_order])
    # The n-th member of a bin has the n-th place after those of the bins before it.
    _, begins, sizes = np.unique(
        cell[0] * order.bins + cell[1], return_index=True, return_counts=True
    )
    place = counts_GX[cell] + np.arange(len(ids)) - np.repeat(begins, sizes)
    mine = (ends_SG[number][cell[0]] <= place) & (place < ends_SG[number + 1][cell[0]])
    rows, place, group = by_order[mine], place[mine], cell[0][mine]
    by_rank = np.lexsort((group, place))
    rows, place, group = rows[by_rank], place[by_rank], group[by_rank]
    table = table.take(rows).combine_chunks()
    first = int(ends_SG[number].sum())
    why = [f"{reasons[g]} {p + 1}" for g, p in zip(group, place, strict=True)]
    columns = [
        *(table[name] for name in EXAMPLES.names),
        pa.array(np.arange(first, first + len(rows))),
        table["group"] if clustered else pa.nulls(len(rows), pa.int32()),
        pa.array(why, pa.string()),
    ]
    schema = SUBSET
    if weights_G is not None:
        columns.append(pa.array(weights_G[group].astype(np.float32)))
        schema = WEIGHTED
    subset = pa.Table.from_arrays(columns, schema=schema).combine_chunks()
    part = store.write_part(subset, folder, f"subset/part-{number:05d}", suffix="parquet")
    sources = Counter(subset["source"].to_pylist())
    return part, sources, int(table["length"].to_numpy().sum())


def _pieces(table: pa.Table, owner: np.ndarray, num_parts: int) -> list[pa.Table]:
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(num_parts + 1))
    return [table.take(order[first:end]) for first, end in pairwise(ends)]


def deal(store: Store, subset: Manifest, *, folder: str, fingerprint: str) -> Manifest:
    """Spread the rows of a subset of several parts by id over as many parts, sorted by id.

    Training shuffles a few parts at a time. In rank order it would see blocks of similar rank; ids
    are hashes, so a range of them is a random share of the rows.
    """
    num_parts = len(subset.parts)
    pieces: list[list[Any]] = [[] for _ in range(num_parts)]
    items = _packed(subset.parts, num_parts)
    for found, _ in scatter(_share_out, items, num_parts, store, subset.folder, num_parts):
        for mine, tables in zip(pieces, found, strict=True):
            mine += tables
    parts = list(gather(_write_dealt, pieces, store, folder))
    assert sum(part.rows for part in parts) == subset.rows, "rows were lost or added"
    return store.commit(folder, fingerprint, parts, {"num_parts": num_parts})


def _share_out(
    parts: Sequence[Part], store: Store, folder: str, num_parts: int
) -> Generator[list[pa.Table], None, None]:
    """Yield the rows of parts of the subset, a table per new part."""
    # New part p begins at id ceil(p 2^63 / num_parts).
    starts = np.array([-(-(p << 63) // num_parts) for p in range(num_parts)], np.uint64)
    for part in parts:
        table = store.read_part(folder, part)
        ids = table["example_id"].to_numpy().astype(np.uint64)
        yield _pieces(table, np.searchsorted(starts, ids, "right") - 1, num_parts)


def _write_dealt(number: int, tables: Sequence[pa.Table], store: Store, folder: str) -> Part:
    table = pa.concat_tables(tables).sort_by("example_id").combine_chunks()
    return store.write_part(table, folder, f"part-{number:05d}", suffix="parquet")
