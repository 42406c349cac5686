"""Pairs of examples with similar signatures, by three shuffles: examples with equal band keys are
brought together, then each pair with the signature of its first example, then with the second's.

No example passes through the driver, which holds parts and references to pieces: O(parts).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from s2l_ray.corpus.copies import Ranges, overlapping
from s2l_ray.corpus.minhash import band_keys, rows_per_band
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.shuffle import gather, scatter
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import HASHES, PAIRS, SIGNATURES

MIB = 2**20
GROUP_BYTES = 256 * MIB  # that a task of a shuffle brings together, as far as MOST_GROUPS allows
PIECE_BYTES = MIB // 4  # at least, if there are enough: see execution/shuffle.py
MOST_GROUPS = 300  # and as many packs: the driver has a reference for each pair
NEIGHBOURS = 8  # examples before it with the same key that an example is compared with
SIGNATURE_BYTES = 4 * HASHES


def similar_pairs(
    store: Store, signed: Manifest, ranges: Ranges, similarity: float, folder: str, fingerprint: str
) -> Manifest:
    """Write which examples are connected by pairs whose signatures have this share of equal numbers
    or more (schemas.PAIRS). Each shuffle is a stage below the folder, so a stop between two keeps
    what the first has written.

    signed: of near_duplicates.sign; ranges: of ids, of its parts.
    """
    where, shuffle = (signed.folder, ranges), _Shuffle(store, folder, fingerprint)
    rows = rows_per_band(similarity)
    key_bytes = HASHES // rows * 16
    candidates = shuffle(
        "candidates", signed, _by_key, (rows,), _candidates, (), key_bytes * signed.rows, key_bytes
    )
    joined = candidates.rows * SIGNATURE_BYTES
    first = shuffle("first", candidates, _by_id, ("a",), _with_signatures, where, joined, 16)
    return shuffle(
        "similar", first, _by_id, ("b",), _similar, (*where, similarity), joined, SIGNATURE_BYTES
    )


class _Shuffle(NamedTuple):
    """Bring rows of one stage together by a key, and write a part from each group: a stage below
    the folder, made once."""

    store: Store
    folder: str
    fingerprint: str

    def __call__(
        self,
        name: str,
        stage: Manifest,
        divide: Callable[..., Generator[list[pa.Table], None, None]],
        by: tuple[Any, ...],
        bring: Callable[..., Part],
        given: tuple[Any, ...],
        group_bytes: int,
        row_bytes: int,
    ) -> Manifest:
        """group_bytes: of all groups, as `bring` holds them. row_bytes: of a row of the stage, as
        `divide` yields it."""
        store, folder = self.store, f"{self.folder}/{name}"
        if finished := store.manifest(folder):
            return finished
        count = min(MOST_GROUPS, -(-group_bytes // GROUP_BYTES)) or 1
        packs = _packs(stage, row_bytes, count)
        groups: list[list[Any]] = [[] for _ in range(count)]
        parts = []
        with Progress(f"near-duplicates: {name}", total=len(packs) + count, unit="parts") as shown:
            for found, _ in scatter(divide, packs, count, store, stage.folder, count, *by):
                for tables, more in zip(groups, found, strict=True):
                    tables += more
                shown.advance(1)
            for part in gather(bring, groups, store, folder, count, *given):
                parts.append(part)
                shown.advance(1)
        return store.commit(folder, self.fingerprint, parts, {})


def _packs(stage: Manifest, row_bytes: int, count: int) -> list[list[Part]]:
    """Put parts together so that a pack has PIECE_BYTES for each group."""
    least = max(count * PIECE_BYTES, stage.rows * row_bytes // MOST_GROUPS)
    packs, room = list[list[Part]](), 0
    for part in stage.parts:
        if room <= 0:
            packs.append([])
            room = least
        packs[-1].append(part)
        room -= part.rows * row_bytes
    return packs


def _divided(table: pa.Table, group_N: np.ndarray, count: int) -> list[pa.Table]:
    order = np.argsort(group_N, kind="stable")
    ends = np.searchsorted(group_N[order], np.arange(count + 1))
    table = table.take(order)
    return [table.slice(ends[i], ends[i + 1] - ends[i]) for i in range(count)]


def _by_key(
    parts: list[Part], store: Store, folder: str, count: int, rows: int
) -> Generator[list[pa.Table], None, None]:
    """Divide (key, example_id), a row per example and band, by ranges of keys."""
    ids, keys = [], []
    for part in parts:
        table = store.read_part(folder, part)
        key_NB = band_keys(_matrix(table), rows)
        keys.append(key_NB.reshape(-1))
        ids.append(np.repeat(table["example_id"].to_numpy(), key_NB.shape[1]))
    key = np.concatenate(keys)
    table = pa.table({"key": key, "example_id": np.concatenate(ids)})
    yield _divided(table, (key >> np.uint64(32)) * np.uint64(count) >> np.uint64(32), count)


def _candidates(
    group: int, tables: Sequence[pa.Table], store: Store, folder: str, count: int
) -> Part:
    """Pair examples with equal keys: each with the NEIGHBOURS before it, by id, and with the first.

    So a key that many share costs no square of them.
    """
    table = pa.concat_tables(tables)
    key, ids = table["key"].to_numpy(), table["example_id"].to_numpy()
    order = np.lexsort((ids, key))
    key, ids = key[order], ids[order]
    first = np.searchsorted(key, key)
    a, b = [ids[first]], [ids]
    for distance in range(1, min(NEIGHBOURS + 1, len(key))):
        same = key[distance:] == key[:-distance]
        a.append(ids[:-distance][same])
        b.append(ids[distance:][same])
    pairs = _pairs(np.concatenate(a), np.concatenate(b))
    return store.write_part(pairs, folder, f"part-{group:05d}")


def _pairs(a: np.ndarray, b: np.ndarray) -> pa.Table:
    """Return the pairs of two different examples, each once, in order."""
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    new = np.append(True, (a[1:] != a[:-1]) | (b[1:] != b[:-1]))[: len(a)] & (a != b)
    return pa.table([a[new], b[new]], schema=PAIRS)


def _by_id(
    parts: list[Part], store: Store, folder: str, count: int, column: str
) -> Generator[list[pa.Table], None, None]:
    """Divide pairs by ranges of the ids in a column."""
    table = pa.concat_tables([store.read_part(folder, part) for part in parts])
    yield _divided(table.combine_chunks(), _range_of(table[column].to_numpy(), count), count)


def _range_of(ids: np.ndarray, count: int) -> np.ndarray:
    """Return in which of equal ranges ids lie."""
    return (ids >> 31) * count >> 32


def _with_signatures(
    group: int,
    tables: Sequence[pa.Table],
    store: Store,
    folder: str,
    count: int,
    signed: str,
    ranges: Ranges,
) -> Part:
    """Write each pair once, with the signature of its first example."""
    table = pa.concat_tables(tables)
    pairs = _pairs(table["a"].to_numpy(), table["b"].to_numpy())
    found = _signatures(store, signed, ranges, pairs["a"].to_numpy())
    column = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), found.shape[1])
    pairs = pairs.append_column(SIGNATURES.field("signature"), column)
    return store.write_part(pairs, folder, f"part-{group:05d}")


def _similar(
    group: int,
    tables: Sequence[pa.Table],
    store: Store,
    folder: str,
    count: int,
    signed: str,
    ranges: Ranges,
    similarity: float,
) -> Part:
    """Write which examples similar pairs connect: each with the first of those that it is
    connected with. These are fewer pairs than the similar ones."""
    table = pa.concat_tables(tables).combine_chunks()
    b = table["b"].to_numpy()
    equal_N = (_matrix(table) == _signatures(store, signed, ranges, b)).mean(axis=1)
    alike = equal_N >= similarity
    ids, first = connected(table["a"].to_numpy()[alike], b[alike])
    return store.write_part(_pairs(first, ids), folder, f"part-{group:05d}")


def connected(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids in pairs, ascending, and for each the smallest that pairs connect it with."""
    ids, nodes = np.unique(np.concatenate([a, b]), return_inverse=True)
    if not len(ids):
        return ids, ids
    edges = nodes[: len(a)], nodes[len(a) :]
    shape = len(ids), len(ids)
    _, label = connected_components(
        coo_array((np.ones(len(a), bool), edges), shape), directed=False
    )
    _, first = np.unique(label, return_index=True)  # ids ascend
    return ids, ids[first[label]]


def _signatures(store: Store, signed: str, ranges: Ranges, ids: np.ndarray) -> np.ndarray:
    """Return the signature of each of the ids: uint32 [N, H]."""
    found = np.zeros((len(ids), HASHES), np.uint32)
    for table in overlapping(store, signed, ranges, ids):
        have = table["example_id"].to_numpy()
        at = np.minimum(np.searchsorted(have, ids), max(0, len(have) - 1))
        mine = have[at] == ids if len(have) else np.zeros(len(ids), bool)
        found[mine] = _matrix(table)[at[mine]]
    return found


def _matrix(table: pa.Table) -> np.ndarray:
    column = table["signature"].combine_chunks()
    return column.flatten().to_numpy().reshape(-1, column.type.list_size)
