"""The subset of a selection: the rows of the chosen examples, gathered from the corpus in rank
order, and spread again for training.

The driver holds their ids. Texts stay on the workers. B chosen examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from s2l_ray.execution.parts import fold_parts
from s2l_ray.execution.remote import get
from s2l_ray.selection.cut import Chosen
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, SUBSET, completed
from s2l_ray.store.views import CorpusView

SUBSET_ROWS = 50_000  # examples in one part of the subset


def write_subset(
    store: Store,
    chosen: Chosen,
    corpus: Manifest,
    tokens: Manifest,
    folder: str,
    clustered: bool,
    reasons: list[str],
) -> tuple[list[Part], dict[str, int], int]:
    """Gather the chosen rows from the corpus parts into subset parts by rank."""
    # A shuffle by rank: cut each corpus part by subset part, then put each subset part together.
    num_chosen, pieces = len(chosen.example_id), []
    num_subset_parts = -(-num_chosen // SUBSET_ROWS)
    gather = _gather.options(num_returns=num_subset_parts)
    view = CorpusView(corpus)
    for part, rank in _by_part(corpus.parts, chosen.example_id, view):
        if len(rank):
            mine = Chosen(chosen.example_id[rank], chosen.group[rank], chosen.place[rank])
            pieces.append(
                gather.remote(
                    store, corpus.folder, part, rank, mine, clustered, reasons,
                    rank // SUBSET_ROWS, num_subset_parts, bool(view.generations),
                )
            )  # fmt: skip
    if num_subset_parts == 1:
        pieces = [[piece] for piece in pieces]
    written = [
        _write_part.remote(store, folder, number, *mine)
        for number, mine in enumerate(zip(*pieces, strict=True))
    ]
    parts, by_source = [], Counter[str]()
    for part, counts in get(written):
        parts.append(part)
        by_source.update(counts)
    assert sum(part.rows for part in parts) == num_chosen, "chosen examples were lost"
    num_tokens = int(lengths_of(store, tokens, chosen.example_id, view).sum())
    return parts, dict(sorted(by_source.items())), num_tokens


@ray.remote(num_cpus=1)
def _gather(
    store: Store,
    folder: str,
    part: Part,
    rank: np.ndarray,
    chosen: Chosen,
    clustered: bool,
    reasons: list[str],
    owner: np.ndarray,
    num_subset_parts: int,
    some: bool,
) -> Any:
    """Return the chosen rows of one corpus part, a table per subset part.

    some: the others are in parts of other generations.
    """
    table = completed(store.read_part(folder, part), EXAMPLES)
    at = _places(store, folder, part, table, chosen.example_id, some)
    if some:
        here = at.is_valid().to_numpy(zero_copy_only=False)
        at, rank, owner = at.drop_null(), rank[here], owner[here]
        chosen = Chosen(chosen.example_id[here], chosen.group[here], chosen.place[here])
    group = pa.array(chosen.group, pa.int32())
    why = [f"{reasons[g]} {p + 1}" for g, p in zip(chosen.group, chosen.place, strict=True)]
    added = [
        pa.array(rank, pa.int64()),
        group if clustered else pa.nulls(len(group), pa.int32()),
        pa.array(why, pa.string()),
    ]
    table = pa.Table.from_arrays([*table.take(at).columns, *added], schema=SUBSET)
    tables = _pieces(table, owner, num_subset_parts)
    return tables[0] if len(tables) == 1 else tables


def _pieces(table: pa.Table, owner: np.ndarray, num_parts: int) -> list[pa.Table]:
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(num_parts + 1))
    return [table.take(order[first:end]) for first, end in pairwise(ends)]


@ray.remote(num_cpus=1)
def _write_part(
    store: Store, folder: str, number: int, *pieces: pa.Table
) -> tuple[Part, dict[str, int]]:
    table = pa.concat_tables(pieces).sort_by("rank").combine_chunks()
    part = store.write_part(table, folder, f"subset/part-{number:05d}", suffix="parquet")
    return part, Counter(table["source"].to_pylist())


def deal(store: Store, subset: Manifest, *, folder: str, fingerprint: str) -> Manifest:
    """Spread the rows of a subset of several parts by id over as many parts, sorted by id.

    Training shuffles a few parts at a time. In rank order it would see blocks of similar rank; ids
    are hashes, so a range of them is a random share of the rows.
    """
    num_parts = len(subset.parts)
    share_out = _share_out.options(num_returns=num_parts)
    pieces = [share_out.remote(store, subset.folder, part, num_parts) for part in subset.parts]
    written = [
        _write_dealt.remote(store, folder, number, *mine)
        for number, mine in enumerate(zip(*pieces, strict=True))
    ]
    parts = get(written)
    assert sum(part.rows for part in parts) == subset.rows, "rows were lost or added"
    return store.commit(folder, fingerprint, parts, {"num_parts": num_parts})


@ray.remote(num_cpus=1)
def _share_out(store: Store, folder: str, part: Part, num_parts: int) -> list[pa.Table]:
    """Return the rows of one subset part, a table per new part."""
    table = store.read_part(folder, part)
    ids = table["example_id"].to_numpy().astype(np.uint64)
    owner = np.searchsorted(_bounds(num_parts), ids, "right") - 1
    return _pieces(table, owner, num_parts)


@ray.remote(num_cpus=1)
def _write_dealt(store: Store, folder: str, number: int, *pieces: pa.Table) -> Part:
    table = pa.concat_tables(pieces).sort_by("example_id").combine_chunks()
    return store.write_part(table, folder, f"part-{number:05d}", suffix="parquet")


def lengths_of(
    store: Store, tokens: Manifest, example_id: np.ndarray, corpus: CorpusView
) -> np.ndarray:
    """Return the tokens of each chosen example, in the order given."""
    lengths, some = np.zeros(len(example_id), np.int64), bool(corpus.generations)
    shares = list(_by_part(tokens.parts, example_id, corpus))
    mine = ((part, example_id[places]) for part, places in shares)
    found = fold_parts(_part_lengths, mine, store, tokens.folder, some)
    for (_, places), part_lengths in zip(shares, found, strict=True):
        lengths[places] += part_lengths
    assert lengths.all(), "a chosen example has no tokens"
    return lengths


def _part_lengths(
    share: tuple[Part, np.ndarray], store: Store, folder: str, some: bool
) -> np.ndarray:
    """some: the others are in parts of other generations; they get 0."""
    part, example_id = share
    table = store.read_part(folder, part, ["example_id", "input_ids"])
    at = _places(store, folder, part, table, example_id, some)
    return pc.list_value_length(table["input_ids"].take(at)).fill_null(0).to_numpy()


def _places(
    store: Store, folder: str, part: Part, table: pa.Table, example_id: np.ndarray, some: bool
) -> pa.Array:
    """Return the row of each id in the part's table; null for others, if there are only `some`."""
    at = pc.index_in(pa.array(example_id), value_set=table["example_id"])
    if at.null_count and not some:
        missing = example_id[at.is_null().to_numpy(zero_copy_only=False)]
        raise ValueError(
            f"{store.address(folder, part.file)}: has no example {missing[0]}, which was chosen "
            f"({len(missing)} such ids); the groups may come from another corpus"
        )
    return at


def _by_part(
    parts: list[Part], example_id: np.ndarray, corpus: CorpusView
) -> Iterator[tuple[Part, np.ndarray]]:
    """Yield each part with the places of the ids in its range, ascending."""
    order = np.argsort(example_id, kind="stable")
    sorted_id = example_id[order].astype(np.uint64)
    ranges = np.array([corpus.ids_of(part.unit) for part in parts], np.uint64).reshape(-1, 2)
    for part, (first, end) in zip(parts, np.searchsorted(sorted_id, ranges), strict=True):
        yield part, np.sort(order[first:end])


def _bounds(num_parts: int) -> np.ndarray:
    """Return where parts begin in the range of ids: part p at ceil(p 2^63 / num_parts).
    [num_parts + 1]"""
    return np.array([-(-(p << 63) // num_parts) for p in range(num_parts + 1)], np.uint64)
