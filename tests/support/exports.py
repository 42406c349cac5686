"""Rows of several kinds, and their exports as a run writes them, without Ray."""

import itertools

import pyarrow as pa

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.shapes import parse, row_settings_of
from s2l_ray.selection.exports import stage
from s2l_ray.store.schemas import SUBSET
from support.rows import message

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 2}'}}
TOOL = {"type": "function", "function": {
    "name": "f", "description": "d",
    "parameters": {"type": "object", "properties": {"b": {"type": "integer"}}},
}}  # fmt: skip
ASKED, ANSWERED = message("user", "q"), message("assistant", "a")
ROWS = {
    "pair": {"messages": [ASKED, ANSWERED]},
    "input": {"instruction": "q", "input": "i", "output": "a"},
    "system": {
        "messages": [message("system", "s"), ASKED, ANSWERED, ASKED, message("assistant", "b")]
    },
    "tools": {
        "messages": [
            ASKED,
            message("assistant", "", tool_calls=[CALL]),
            message("tool", "3", tool_call_id="c1", name="f"),
            ANSWERED,
        ],
        "tools": [TOOL],
    },
    "reasoning": {"messages": [ASKED, message("assistant", "a", reasoning_content="r")]},
    "masked": {
        "messages": [
            ASKED,
            message("assistant", "wrong", weight=0),
            message("user", "no"),
            message("assistant", "right"),
        ]
    },
    "first masked": {
        "messages": [
            ASKED,
            message("assistant", "wrong", weight=0),
            message("user", "no"),
            message("assistant", "right"),
            message("user", "more"),
            message("assistant", "last"),
        ]
    },
}  # fmt: skip
SETTINGS = row_settings_of(CorpusConfig(path="-", source="s"))


def subset_of(rows):
    """Rows as a subset has them, with large ids, in this order."""
    found = []
    for number, row in enumerate(rows):
        _, example = parse(row | {"source": "s"}, SETTINGS)
        found.append({
            "example_id": 2**62 + 1 + number, "source": "s", "turns": example.turns,
            "tools": example.tools, "file": "f.jsonl", "row": number + 1, "rank": number,
            "cluster_id": None, "reason": f"draw {number + 1}",
        })  # fmt: skip
    return pa.Table.from_pylist(found, schema=SUBSET)


def write_subset(store, rows, per_part=2, folder="selections/t/f"):
    """A committed subset of these rows."""
    table = subset_of(rows)
    parts = [
        store.write_part(table.slice(first, per_part), folder, f"subset/part-{n:05d}",
                         suffix="parquet")
        for n, first in enumerate(range(0, len(rows), per_part))
    ]  # fmt: skip
    return store.commit(folder, "f", parts, {"selector": "random"})


def exported(store, name, rows):
    """The export of these rows, made in this process."""
    subset = write_subset(store, rows, folder=f"selections/{name}/f")

    def make_parts(store, stages, make_work, args, *, label, suffix):
        work, found = make_work(*args), {}
        for each in stages:
            found[each.folder] = [
                store.write_part(work(unit)[0], each.folder, unit["unit"], suffix=suffix)
                for unit in each.units
            ]
        return found

    on_ray, stage.make_parts = stage.make_parts, make_parts
    try:
        return stage.export(store, subset, name, folder=f"exports/t/{name}/f", fingerprint="f")
    finally:
        stage.make_parts = on_ray


def labels_of(input_ids, labels, tokenizer):
    """The text of the labels, a piece per run of labels."""
    runs = itertools.groupby(zip(input_ids, labels, strict=True), lambda pair: pair[1] != -100)
    return [tokenizer.decode([token for token, _ in run]) for labelled, run in runs if labelled]
