"""The selection stage: quotas per group, an exact sharded cut, the subset in rank order.

The driver holds one histogram per group (groups x BINS) and the ids of the chosen examples; texts
stay in the workers. N examples, B chosen, G groups.
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

from s2l_ray.config import SelectionConfig, parse_budget
from s2l_ray.rows import export_row
from s2l_ray.selectors import SELECTORS, Quotas
from s2l_ray.store import EXAMPLES, Manifest, Part, Store

BINS = 256  # of a key's top bits, per group
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


def choose(
    store: Store,
    config: SelectionConfig,
    *,
    corpus: Manifest,
    tokens: Manifest,
    groups: Manifest,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Select by config.selector and write the subset.

    groups: the clusters stage, or (for a selector without groups) the trajectories: its rows are
    the examples that can be chosen. Subset parts hold `SUBSET` in rank order over all parts.
    info: selector, budget, seed, examples, tokens, by_source, by_group, quotas, candidates.
    ValueError if the budget is more than there is.
    """
    selector = SELECTORS[config.selector]
    clustered = selector.groups != "all"
    sources = groups.info["sources"] if clustered else [None]
    histogram_GX = _histogram(store, groups, len(sources), clustered, config.seed)
    sizes = histogram_GX.sum(axis=1)
    chosen = _cut_to_budget(
        store, config, selector.quotas, sizes, sources, histogram_GX, groups, tokens, clustered
    )
    parts, by_source, num_tokens = _write(store, config, chosen, corpus, tokens, folder, clustered)
    by_group = np.bincount(chosen.group, minlength=len(sizes))
    info = {
        "selector": config.selector,
        "budget": config.budget,
        "seed": config.seed,
        "examples": len(chosen.example_id),
        "candidates": int(sizes.sum()),
        "tokens": num_tokens,
        "by_source": by_source,
        "by_cluster": by_group.tolist() if clustered else None,
        "groups_above_quota": float((by_group < sizes).mean()),
    }
    store.write_json(info, folder, "selection.json")
    return store.commit(folder, fingerprint, parts, info)


def keys(example_id: np.ndarray, seed: int) -> np.ndarray:
    """A uniform 64-bit key per example, a function of seed and id (splitmix64's finaliser)."""
    with np.errstate(over="ignore"):
        z = example_id.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return z ^ (z >> np.uint64(31))


def cut(example_id: np.ndarray, group: np.ndarray, quotas: np.ndarray, seed: int) -> Chosen:
    """From candidates (any superset of the answer) the `quotas[g]` smallest keys of each group."""
    order = np.lexsort((example_id, keys(example_id, seed), group))
    example_id, group = example_id[order], group[order]
    starts = np.searchsorted(group, np.arange(len(quotas)))
    place = np.arange(len(group)) - starts[group]
    taken = place < quotas[group]
    example_id, group, place = example_id[taken], group[taken], place[taken]
    rank = np.lexsort((group, place))
    return Chosen(example_id[rank], group[rank], place[rank])


def _cut_to_budget(
    store: Store,
    config: SelectionConfig,
    quotas_of: Quotas,
    sizes: np.ndarray,
    sources: list[str | None],
    histogram_GX: np.ndarray,
    groups: Manifest,
    tokens: Manifest,
    clustered: bool,
) -> Chosen:
    kind, amount = parse_budget(config.budget)
    total = int(sizes.sum())
    if kind == "share":
        count = max(1, round(amount * total))
    elif kind == "examples":
        count = int(amount)
    else:
        have = sum(part.stats["tokens"] for part in tokens.parts)
        if amount > have:
            raise ValueError(
                f"selection.budget: {config.budget!r}, but the corpus has {have:,} tokens"
            )
        count = min(total, 1 + int(1.2 * amount / have * total))
    if count > total:
        raise ValueError(f"selection.budget: {count:,} examples, but only {total:,} can be chosen")
    while True:
        quotas = quotas_of(sizes, sources, count)
        chosen = cut(*_candidates(store, groups, quotas, histogram_GX, clustered, config.seed),
                     quotas, config.seed)  # fmt: skip
        if kind != "tokens":
            return chosen
        lengths = _lengths(store, tokens, chosen.example_id)
        if int(lengths.sum()) > amount or count == total:
            break
        count = min(total, count * 2)
    # Smaller budgets nest in this one: find the largest that the tokens pay for.
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        within = chosen.place < quotas_of(sizes, sources, middle)[chosen.group]
        low, high = (middle, high) if lengths[within].sum() <= amount else (low, middle - 1)
    within = chosen.place < quotas_of(sizes, sources, low)[chosen.group]
    if not within.any():
        raise ValueError(f"selection.budget: {config.budget!r} does not pay for one example")
    return Chosen(chosen.example_id[within], chosen.group[within], chosen.place[within])


def _read_groups(store: Store, folder: str, part: Part, clustered: bool) -> tuple[Any, Any]:
    columns = ["example_id", "cluster_id"] if clustered else ["example_id"]
    table = store.read_part(folder, part, columns)
    ids = table["example_id"].to_numpy()
    group = table["cluster_id"].to_numpy() if clustered else np.zeros(len(ids), np.int32)
    return ids, group


@ray.remote(num_cpus=1)
def _part_histogram(
    store: Store, folder: str, part: Part, num_groups: int, clustered: bool, seed: int
) -> np.ndarray:
    ids, group = _read_groups(store, folder, part, clustered)
    bins = (keys(ids, seed) >> np.uint64(56)).astype(np.int64)
    return np.bincount(group * BINS + bins, minlength=num_groups * BINS).astype(np.int32)


@ray.remote(num_cpus=1)
def _part_candidates(
    store: Store, folder: str, part: Part, last_bin: np.ndarray, clustered: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    ids, group = _read_groups(store, folder, part, clustered)
    bins = (keys(ids, seed) >> np.uint64(56)).astype(np.int64)
    near = bins <= last_bin[group]
    return ids[near], group[near]


@ray.remote(num_cpus=1)
def _part_lengths(
    store: Store, folder: str, part: Part, example_id: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    table = store.read_part(folder, part, ["example_id", "input_ids"])
    ids = table["example_id"].to_numpy()
    mine = np.isin(ids, example_id)
    return ids[mine], pc.list_value_length(table["input_ids"]).to_numpy()[mine]


def _histogram(
    store: Store, groups: Manifest, num_groups: int, clustered: bool, seed: int
) -> np.ndarray:
    total = np.zeros(num_groups * BINS, np.int64)
    for counts in _each(
        _part_histogram.remote(store, groups.folder, part, num_groups, clustered, seed)
        for part in groups.parts
    ):
        total += counts
    return total.reshape(num_groups, BINS)


def _candidates(
    store: Store,
    groups: Manifest,
    quotas: np.ndarray,
    histogram_GX: np.ndarray,
    clustered: bool,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and groups of all examples up to the bin in which their group's quota is filled."""
    reached_GX = histogram_GX.cumsum(axis=1) >= quotas[:, None]
    last_bin = np.where(quotas > 0, reached_GX.argmax(axis=1), -1)
    found = [
        _part_candidates.remote(store, groups.folder, part, last_bin, clustered, seed)
        for part in groups.parts
    ]
    ids, group = zip(*ray.get(found), strict=True)
    return np.concatenate(ids), np.concatenate(group)


def _lengths(store: Store, tokens: Manifest, example_id: np.ndarray) -> np.ndarray:
    """Tokens of each chosen example, in the order given."""
    wanted = ray.put(np.sort(example_id))
    found = [_part_lengths.remote(store, tokens.folder, part, wanted) for part in tokens.parts]
    ids, lengths = (np.concatenate(arrays) for arrays in zip(*ray.get(found), strict=True))
    order = np.argsort(ids)
    return lengths[order][np.searchsorted(ids[order], example_id)].astype(np.int64)


def _each(refs: Any) -> Any:
    """Results as they come; at most one of them on the driver at a time."""
    waiting = list(refs)
    while waiting:
        done, waiting = ray.wait(waiting)
        yield ray.get(done[0])


def _write(
    store: Store,
    config: SelectionConfig,
    chosen: Chosen,
    corpus: Manifest,
    tokens: Manifest,
    folder: str,
    clustered: bool,
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
            store, corpus.folder, part, rows, clustered, num_subset_parts
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
    num_tokens = int(_lengths(store, tokens, chosen.example_id).sum())
    return parts, dict(sorted(by_source.items())), num_tokens


@ray.remote(num_cpus=1)
def _gather(
    store: Store,
    folder: str,
    part: Part,
    rows: dict[str, np.ndarray],
    clustered: bool,
    num_subset_parts: int,
) -> Any:
    """The chosen rows of one corpus part, one table for each subset part."""
    table = store.read_part(folder, part, EXAMPLES.names)
    at = pc.index_in(pa.array(rows["example_id"]), value_set=table["example_id"])
    group = pa.array(rows["group"], pa.int32())
    reasons = [
        f"cluster {g}, draw {p + 1}" if clustered else f"draw {p + 1}"
        for g, p in zip(rows["group"], rows["place"], strict=True)
    ]
    added = [
        pa.array(rows["rank"], pa.int64()),
        group if clustered else pa.nulls(len(group), pa.int32()),
        pa.array(reasons, pa.string()),
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
