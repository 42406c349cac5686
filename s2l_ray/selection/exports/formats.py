"""The formats by name, and chosen examples as a table of one. Pure functions, no I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

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
    that are lists of JSON objects. suffix: of the data files; parquet for objects that `datasets`
    is to read, because it guesses the types of JSON lines from the first rows of the first file and
    fails at a later one that has more keys. reader: for README.md, what reads it and how. beside:
    more files, by name, from the export's address. trainer: the program that the format is for; it
    has no place for weights of examples.
    """

    row: Callable[[Example], dict[str, Any]]
    reader: str
    objects: tuple[str, ...] = ()
    suffix: Literal["jsonl", "parquet"] = "jsonl"
    beside: Callable[[str], dict[str, str]] = lambda address: {}
    trainer: Literal["", "TRL", "LLaMA-Factory", "Axolotl"] = ""


def _info(name: str) -> Callable[[str], dict[str, str]]:
    return lambda address: {"dataset_info.json": llamafactory.dataset_info(name)}


FACTORY = "LLaMA-Factory: `dataset_dir:` this folder, `dataset:` the name in dataset_info.json"
FORMATS = {
    "alpaca": Format(partial(rows.export_row, shape="alpaca"), "programs that read Alpaca's rows"),
    "prompt_response": Format(
        partial(rows.export_row, shape="prompt_response"), "programs that read pairs"
    ),
    "messages": Format(
        partial(rows.export_row, shape="messages"),
        "programs that read OpenAI's messages",
        ("messages", "tools"),
    ),
    "trl_messages": Format(
        trl.messages,
        "TRL: `SFTTrainer` with `SFTConfig(assistant_only_loss=True)`; without it, questions are "
        "learned too",
        ("messages", "tools"),
        "parquet",
        trainer="TRL",
    ),
    "trl_prompt_completion": Format(
        trl.prompt_completion, "TRL: `SFTTrainer`; it learns the completion", trainer="TRL"
    ),
    "trl_prompt_completion_messages": Format(
        trl.prompt_completion_messages,
        "TRL: `SFTTrainer`; it learns the completion",
        ("prompt", "completion", "tools"),
        "parquet",
        trainer="TRL",
    ),
    "llamafactory_alpaca": Format(
        llamafactory.alpaca,
        FACTORY,
        beside=_info("llamafactory_alpaca"),
        trainer="LLaMA-Factory",
    ),
    "llamafactory_sharegpt": Format(
        llamafactory.sharegpt,
        FACTORY,
        beside=_info("llamafactory_sharegpt"),
        trainer="LLaMA-Factory",
    ),
    "axolotl": Format(
        axolotl.chat_template,
        "Axolotl: the block in dataset.yaml",
        beside=lambda address: {"dataset.yaml": axolotl.dataset_block(address)},
        trainer="Axolotl",
    ),
}


def formatted(row: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a row of the corpus or the subset in a format, with where it comes from.

    The id is a string: JavaScript, and all that reads JSON as it does, would round it.
    """
    found = FORMATS[name].row(Example(row["turns"], row["tools"]))
    origin = {"example_id": str(row["example_id"])} | {key: row[key] for key in ORIGIN}
    return found | origin | ({"weight": row["weight"]} if "weight" in row else {})


def rows_of(examples: pa.Table, name: str) -> list[dict[str, Any]]:
    """Return chosen examples as rows of a format; ValueError, with its file and row, for one that
    does not fit."""
    found = []
    for row in examples.to_pylist():
        try:
            found.append(formatted(row, name))
        except ValueError as error:
            raise ValueError(f"{row['file']}:{row['row']}: {error}") from None
    return found


def table_of(examples: pa.Table, name: str) -> pa.Table:
    """Return chosen examples as the table of a data file: typed columns, or lines of text."""
    if FORMATS[name].suffix == "parquet":
        return typed(rows_of(examples, name), name)
    texts = (json.dumps(row, ensure_ascii=False) for row in rows_of(examples, name))
    return pa.table([[text.translate(LINE_ENDS) + "\n" for text in texts]], schema=LINES)


def typed(rows: list[dict[str, Any]], name: str) -> pa.Table:
    """Return rows of a format as a table. In it `datasets` (4.7 or newer) finds JSON objects, each
    with its own keys."""
    objects = FORMATS[name].objects
    columns = {}
    for column in dict.fromkeys([*objects, *(key for row in rows for key in row)]):
        values = [row.get(column) for row in rows]
        if column in objects:
            texts = [each and [json.dumps(o, ensure_ascii=False) for o in each] for each in values]
            columns[column] = pa.array(texts, pa.list_(pa.string())).cast(pa.list_(pa.json_()))
        else:
            columns[column] = pa.array(values)
    features: dict[str, Any] = {
        column: {"feature": {"_type": "Json"}, "_type": "List"} for column in objects
    }
    told = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({FEATURES: told})
