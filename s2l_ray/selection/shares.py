"""A selection with the source shares of another: within each source, the first by its own order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.execution.parts import fold_parts
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.views import SelectionView


def take_shares(
    store: Store,
    whole: Manifest,
    wanted: Mapping[str, int],
    *,
    like: str,
    tokens: Manifest,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Write the first `wanted` examples of each source of a larger subset, in its rank order.

    whole: has at least as many of each. like: the selector that `wanted` comes from. The parts and
    the info are those of selection.choose, with `shares_of` beside; clusters are not counted.
    """
    counts = list(fold_parts(_by_source, whole.parts, store, whole.folder))
    before, jobs, rank = Counter[str](), [], 0
    for part, mine in zip(whole.parts, counts, strict=True):
        left = {name: max(0, wanted.get(name, 0) - before[name]) for name in mine}
        kept = sum(min(left[name], count) for name, count in mine.items())
        if kept:
            jobs.append((part, left, rank))
        before.update(mine)
        rank += kept
    assert rank == sum(wanted.values()), "the larger subset has too few of a source"
    found = list(fold_parts(_take, jobs, store, whole.folder, folder))
    ids = np.concatenate([each for _, each in found])
    view = SelectionView(whole)
    lengths = fold_parts(_tokens_of, tokens.parts, store, tokens.folder, ids)
    info = {
        "selector": view.selector,
        "shares_of": like,
        "budget": rank,
        "seed": view.seed,
        "examples": rank,
        "candidates": view.candidates,
        "tokens": sum(lengths),
        "by_source": dict(sorted(wanted.items())),
        "by_cluster": None,
        "groups_above_quota": view.groups_above_quota,
    }
    text = json.dumps(info, indent=1, ensure_ascii=False)
    told = store.write_beside(text.encode(), folder, "selection.json")
    return store.commit(folder, fingerprint, [part for part, _ in found], info, [told])


def _by_source(part: Part, store: Store, folder: str) -> dict[str, int]:
    return dict(Counter(store.read_part(folder, part, ["source"])["source"].to_pylist()))


def _tokens_of(part: Part, store: Store, folder: str, example_id: np.ndarray) -> int:
    """Return the tokens of those of the examples that a part has."""
    table = store.read_part(folder, part, ["example_id", "input_ids"])
    mine = np.isin(table["example_id"].to_numpy(), example_id)
    return int(pc.list_value_length(table["input_ids"]).to_numpy()[mine].sum())


def _take(
    job: tuple[Part, dict[str, int], int], store: Store, source: str, folder: str
) -> tuple[Part, np.ndarray]:
    """Write the first rows of each source of a part; return the new part and the ids."""
    part, left, rank = job
    table = store.read_part(source, part)
    rows = []
    seen = Counter[str]()
    for row, name in enumerate(table["source"].to_pylist()):
        if seen[name] < left[name]:
            rows.append(row)
        seen[name] += 1
    kept = table.take(pa.array(rows, pa.int64()))
    ranks = pa.array(np.arange(rank, rank + len(rows)), pa.int64())
    kept = kept.set_column(kept.schema.get_field_index("rank"), "rank", ranks).combine_chunks()
    written = store.write_part(kept, folder, part.unit, suffix="parquet")
    return written, kept["example_id"].to_numpy()
