"""The formats by name, and chosen examples as a table of one. Pure functions, no I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from s2l_ray.corpus.rows import Example
from s2l_ray.selection.exports import axolotl, llamafactory, rows, trl
from s2l_ray.store.tables import FEATURES

# Many readers take these for the end of a line. JSON itself escapes all below U+0020.
LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
LINES = pa.schema([("line", pa.string())])
ORIGIN = ("source", "file", "row")


@dataclass(frozen=True)
class Format:
    """A format of chosen examples.

    row: an example's columns; ValueError if the format has no place for something. objects: columns
    that are lists of JSON objects; such a format is written as Parquet, because `datasets` guesses
    the types of JSON lines from the first rows of the first file and fails at a later one that has
    more keys. reader: for README.md, what reads it and how. beside: more files, by name, from the
    export's address.
    """

    row: Callable[[Example], dict[str, Any]]
    reader: str
    objects: tuple[str, ...] = ()
    beside: Callable[[str], dict[str, str]] = lambda address: {}

    @property
    def suffix(self) -> str:
        return "parquet" if self.objects else "jsonl"


def _info(name: str) -> Callable[[str], dict[str, str]]:
    return lambda address: {"dataset_info.json": llamafactory.dataset_info(name)}


FACTORY = "LLaMA-Factory: `dataset_dir:` this folder, `dataset:` the name in dataset_info.json"
FORMATS = {
    "alpaca": Format(partial(rows.export_row, shape="alpaca"), "programs that read Alpaca's rows"),
    "prompt_response": Format(
        partial(rows.export_row, shape="prompt_response"), "programs that read pairs"
    ),
    "messages": Format(
        partial(rows.export_row, shape="messages"), "programs that read OpenAI's messages"
    ),
    "trl_messages": Format(
        trl.messages,
        "TRL: `SFTTrainer` with `SFTConfig(assistant_only_loss=True)`; without it, questions are "
        "learned too",
        ("messages", "tools"),
    ),
    "trl_prompt_completion": Format(
        trl.prompt_completion, "TRL: `SFTTrainer`; it learns the completion"
    ),
    "trl_prompt_completion_messages": Format(
        trl.prompt_completion_messages,
        "TRL: `SFTTrainer`; it learns the completion",
        ("prompt", "completion", "tools"),
    ),
    "llamafactory_alpaca": Format(
        llamafactory.alpaca, FACTORY, beside=_info("llamafactory_alpaca")
    ),
    "llamafactory_sharegpt": Format(
        llamafactory.sharegpt, FACTORY, beside=_info("llamafactory_sharegpt")
    ),
    "axolotl": Format(
        axolotl.chat_template,
        "Axolotl: the block in dataset.yaml",
        beside=lambda address: {"dataset.yaml": axolotl.dataset_block(address)},
    ),
}


def formatted(row: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a row of the corpus or the subset in a format, with where it comes from.

    The id is a string: JavaScript, and all that reads JSON as it does, would round it.
    """
    found = FORMATS[name].row(Example(row["turns"], row["tools"]))
    origin = {"example_id": str(row["example_id"])} | {key: row[key] for key in ORIGIN}
    return found | origin


def table_of(examples: pa.Table, name: str) -> pa.Table:
    """Return chosen examples as a table of a format.

    ValueError for an example that does not fit, with its file and row.
    """
    found = []
    for row in examples.to_pylist():
        try:
            found.append(formatted(row, name))
        except ValueError as error:
            raise ValueError(f"{row['file']}:{row['row']}: {error}") from None
    objects = FORMATS[name].objects
    for row in found:
        for column in objects:
            if row[column] is not None:
                row[column] = [json.dumps(each, ensure_ascii=False) for each in row[column]]
    if not objects:
        return _lines(found)
    # For `datasets` (4.7 or newer) each object then keeps its own keys.
    table = pa.Table.from_pylist(found, schema=_schema(objects, pa.string()))
    return table.cast(_schema(objects, pa.json_()))


def _lines(found: list[dict[str, Any]]) -> pa.Table:
    lines = [json.dumps(row, ensure_ascii=False).translate(LINE_ENDS) + "\n" for row in found]
    return pa.table([lines], schema=LINES)


def _schema(objects: tuple[str, ...], item: pa.DataType) -> pa.Schema:
    types = {column: pa.list_(item) for column in objects}
    types |= {"example_id": pa.string(), "source": pa.string(), "file": pa.string()}
    features: dict[str, Any] = {
        column: {"feature": {"_type": "Json"}, "_type": "List"} for column in objects
    }
    told = json.dumps({"info": {"features": features}})
    return pa.schema({**types, "row": pa.int64()}, metadata={FEATURES: told})
