"""The subset of a selection: the chosen examples' rows, gathered from the corpus in rank order.

The driver holds their ids; texts stay in the workers. B chosen examples.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from s2l_ray.config import SelectionConfig
from s2l_ray.rows import export_row
from s2l_ray.store import EXAMPLES, Manifest, Part, Store

SUBSET_ROWS = 50_000  # examples in one part of the subset

SUBSET = pa.schema(
    [*EXAMPLES, ("rank", pa.int64()), ("cluster_id", pa.int32()), ("reason", pa.string())]
)


@dataclass(frozen=True)
class Chosen:
    """The chosen examples in rank order: by place inside their group, then by group. [B] each."""

    example_id: np.ndarray  # int64
    group: np.ndarray  # int32
    place: np.ndarray  # int64, 0 for the first drawn of a group


def write_subset(
    store: Store,
    config: SelectionConfig,
    chosen: Chosen,
    corpus: Manifest,
    tokens: Manifest,
    folder: str,
    clustered: bool,
    reasons: list[str],
) -> tuple[list[Part], dict[str, int], int]:
    """Gather the chosen rows from the corpus parts into subset parts by rank."""
    rank = np.arange(len(chosen.example_id))
    # Parts divide the range of ids: see corpus.
    num_parts = corpus.info["num_parts"]
    owner = np.array([int(i) * num_parts >> 63 for i in chosen.example_id])
    items = []
    for part in corpus.parts:
        mine = np.flatnonzero(owner == int(part.unit.removeprefix("part-")))
        if len(mine):
            place = {"rank": rank[mine], "group": chosen.group[mine], "place": chosen.place[mine]}
            items.append((part, {"example_id": chosen.example_id[mine]} | place))
    # A shuffle by rank: each corpus part is cut by subset part, each subset part is put together.
    num_subset_parts = -(-len(rank) // SUBSET_ROWS)
    pieces = [
        _gather.options(num_returns=num_subset_parts).remote(
            store, corpus.folder, part, rows, clustered, reasons, num_subset_parts
        )
        for part, rows in items
    ]
    if num_subset_parts == 1:
        pieces = [[piece] for piece in pieces]
    written = [
        _write_part.remote(store, folder, number, config.export, *mine)
        for number, mine in enumerate(zip(*pieces, strict=True))
    ]
    parts, by_source = [], Counter[str]()
    for part, counts in ray.get(written):
        parts.append(part)
        by_source.update(counts)
    assert sum(part.rows for part in parts) == len(rank), "a chosen example is not in the corpus"
    num_tokens = int(lengths_of(store, tokens, chosen.example_id).sum())
    return parts, dict(sorted(by_source.items())), num_tokens


@ray.remote(num_cpus=1)
def _gather(
    store: Store,
    folder: str,
    part: Part,
    rows: dict[str, np.ndarray],
    clustered: bool,
    reasons: list[str],
    num_subset_parts: int,
) -> Any:
    """The chosen rows of one corpus part, one table for each subset part."""
    table = store.read_part(folder, part, EXAMPLES.names)
    at = pc.index_in(pa.array(rows["example_id"]), value_set=table["example_id"])
    group = pa.array(rows["group"], pa.int32())
    why = [f"{reasons[g]} {p + 1}" for g, p in zip(rows["group"], rows["place"], strict=True)]
    added = [
        pa.array(rows["rank"], pa.int64()),
        group if clustered else pa.nulls(len(group), pa.int32()),
        pa.array(why, pa.string()),
    ]
    table = pa.Table.from_arrays([*table.take(at).columns, *added], schema=SUBSET)
    owner = rows["rank"] // SUBSET_ROWS
    tables = [table.filter(pa.array(owner == number)) for number in range(num_subset_parts)]
    return tables[0] if len(tables) == 1 else tables


@ray.remote(num_cpus=1)
def _write_part(
    store: Store, folder: str, number: int, shapes: list[Any], *pieces: pa.Table
) -> tuple[Part, dict[str, int]]:
    table = pa.concat_tables(pieces).sort_by("rank").combine_chunks()
    part = store.write_part(table, folder, f"subset/part-{number:05d}", suffix="parquet")
    for shape in shapes:
        lines = [
            json.dumps(
                export_row(row["turns"], row["source"], shape)
                | {name: row[name] for name in ("example_id", "file", "row")},
                ensure_ascii=False,
            )
            for row in table.to_pylist()
        ]
        data = ("\n".join(lines) + "\n").encode()
        store.write_bytes(data, folder, "export", f"{shape}-{number:05d}.jsonl")
    return part, Counter(table["source"].to_pylist())


def lengths_of(store: Store, tokens: Manifest, example_id: np.ndarray) -> np.ndarray:
    """Tokens of each chosen example, in the order given."""
    wanted = ray.put(np.sort(example_id))
    found = [_part_lengths.remote(store, tokens.folder, part, wanted) for part in tokens.parts]
    ids, lengths = (np.concatenate(arrays) for arrays in zip(*ray.get(found), strict=True))
    order = np.argsort(ids)
    return lengths[order][np.searchsorted(ids[order], example_id)].astype(np.int64)


@ray.remote(num_cpus=1)
def _part_lengths(
    store: Store, folder: str, part: Part, example_id: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    table = store.read_part(folder, part, ["example_id", "input_ids"])
    ids = table["example_id"].to_numpy()
    mine = np.isin(ids, example_id)
    return ids[mine], pc.list_value_length(table["input_ids"]).to_numpy()[mine]
