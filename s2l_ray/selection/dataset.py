"""Examples as a Ray Dataset for trainers of other libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.corpus.rows import Example
from s2l_ray.execution.parts import fold_parts
from s2l_ray.selection.exports.formats import FORMATS, rows_of, typed
from s2l_ray.selection.exports.rows import export_row
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, completed, completed_subset

if TYPE_CHECKING:
    import ray.data

NO_LABEL = -100  # the label of a token that is not learned, in torch and in trainers


def chosen_dataset(store: Store, subset: Manifest) -> ray.data.Dataset:
    """Return the chosen examples lazily, with one block per part: the columns of a subset, but
    messages and tools (see training_dataset) in place of turns and tools."""
    import ray.data

    items = [{"part": json.dumps(part.to_json())} for part in subset.parts]
    return ray.data.from_items(items, override_num_blocks=max(1, len(items))).map_batches(
        _read_chosen,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=0,
        fn_args=(store, subset.folder),
    )


def chosen_ids(store: Store, subset: Manifest) -> np.ndarray:
    """Return the ids of the chosen examples in rank order: int64 [B]."""
    found = fold_parts(_ids, subset.parts, store, subset.folder)
    return np.concatenate([*found, np.empty(0, np.int64)])


def chosen_table(store: Store, subset: Manifest, export: str) -> pa.Table:
    """Return the chosen examples in rank order in a format of exports, with types for the library
    `datasets`."""
    if export not in FORMATS:
        raise ValueError(f"export: found {export!r}, expected one of {', '.join(FORMATS)}")
    return pa.concat_tables(fold_parts(_typed, subset.parts, store, subset.folder, export))


def _ids(part: Part, store: Store, folder: str) -> np.ndarray:
    return store.read_part(folder, part, ["example_id"])["example_id"].to_numpy()


def _typed(part: Part, store: Store, folder: str, export: str) -> pa.Table:
    return typed(rows_of(completed_subset(store.read_part(folder, part)), export), export)


def _read_chosen(batch: pa.Table, store: Store, folder: str) -> Iterator[pa.Table]:
    for text in batch["part"].to_pylist():
        table = completed_subset(store.read_part(folder, Part.from_json(json.loads(text))))
        said = _messages(table)
        kept = {name: table[name] for name in table.column_names if name not in ("turns", "tools")}
        yield pa.table(kept | said)


def training_dataset(store: Store, examples: Manifest, tokens: Manifest) -> ray.data.Dataset:
    """Return the examples that have a label token, lazily, with one block per part.

    tokens: the examples tokenized (corpus.tokenization.tokenize). Rows have:

    - example_id, source
    - weight, of the example's losses, if the selector gives weights
    - input_ids, labels: the tokens, and the same with NO_LABEL where a token is not learned
    - messages, tools: as selection.exports has them; tools is None if there are none

    Reading takes no CPU of Ray's, since the workers of a training may have reserved all.
    """
    import ray.data

    texts = {part.unit: part for part in examples.parts}
    items = [
        {"parts": json.dumps([texts[part.unit].to_json(), part.to_json()])} for part in tokens.parts
    ]
    return ray.data.from_items(items, override_num_blocks=max(1, len(items))).map_batches(
        _read,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=0,
        fn_args=(store, examples.folder, tokens.folder),
    )


def _read(batch: pa.Table, store: Store, examples_folder: str, folder: str) -> Iterator[pa.Table]:
    for text in batch["parts"].to_pylist():
        mine, tokenized = map(Part.from_json, json.loads(text))
        examples = completed(store.read_part(examples_folder, mine), EXAMPLES)
        yield _rows(examples, store.read_part(folder, tokenized))


def _rows(examples: pa.Table, tokens: pa.Table) -> pa.Table:
    assert examples["example_id"].equals(tokens["example_id"]), "not the tokens of these examples"
    learned = pc.greater(tokens["num_label_tokens"], 0)
    examples, tokens = examples.filter(learned), tokens.filter(learned)
    ids = tokens["input_ids"].combine_chunks()
    flat, mask = pc.list_flatten(ids), pc.list_flatten(tokens["loss_mask"].combine_chunks())
    offsets = pa.array([0, *pc.cumulative_sum(pc.list_value_length(ids)).to_pylist()], pa.int32())
    labels = pc.if_else(mask, flat, pa.scalar(NO_LABEL, flat.type))
    return pa.table(
        {
            "example_id": examples["example_id"],
            "source": examples["source"],
            "input_ids": pa.ListArray.from_arrays(offsets, flat),
            "labels": pa.ListArray.from_arrays(offsets, labels),
            **({"weight": tokens["weight"]} if "weight" in tokens.column_names else {}),
            **_messages(examples),
        }
    )


def _messages(examples: pa.Table) -> dict[str, pa.Array]:
    from ray.data.extensions import ArrowPythonObjectArray

    rows = [
        export_row(Example(row["turns"], row["tools"]), "messages")
        for row in examples.select(["turns", "tools"]).to_pylist()
    ]
    # As Python's objects: a struct of Arrow would add to a call what other calls have.
    return {
        "messages": ArrowPythonObjectArray.from_objects([row["messages"] for row in rows]),
        "tools": ArrowPythonObjectArray.from_objects([row.get("tools") for row in rows]),
    }
