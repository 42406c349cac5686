"""Exports as JSON lines, and the check of every example before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from s2l_ray.corpus.rows import Example
from s2l_ray.execution.parts import fold_parts
from s2l_ray.selection.exports import export_row
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, completed

# Many readers take these for the end of a line. JSON itself escapes all below U+0020.
LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


class Unfit(NamedTuple):
    """Examples that an export has no form for: how many, and the first by file and row."""

    number: int
    file: str
    row: int
    why: str


def export_lines(table: pa.Table, shape: str) -> bytes:
    """Return chosen examples as JSON lines of a shape, each with example_id, file and row."""
    lines = []
    for row in table.to_pylist():
        origin = {name: row[name] for name in ("example_id", "file", "row")}
        text = json.dumps(_exported(row, shape) | origin, ensure_ascii=False)
        lines.append(text.translate(LINE_ENDS) + "\n")
    return "".join(lines).encode()


def check_exports(store: Store, examples: Manifest, shapes: Sequence[str]) -> None:
    """Raise ValueError if an example does not fit one of the shapes, with its file and row."""
    found: dict[str, Unfit] = {}
    args = store, examples.folder, shapes
    for unfit in fold_parts(_unfit, examples.parts, *args, label="check exports"):
        for shape, mine in unfit.items():
            _add(found, shape, mine)
    for shape, (number, file, row, why) in found.items():
        raise ValueError(
            f"selection.export: {file}:{row}: {why} ({number:,} of {examples.rows:,} examples "
            f"cannot be written as {shape})"
        )


def _unfit(part: Part, store: Store, folder: str, shapes: Sequence[str]) -> dict[str, Unfit]:
    found: dict[str, Unfit] = {}
    for row in completed(store.read_part(folder, part), EXAMPLES).to_pylist():
        for shape in shapes:
            try:
                _exported(row, shape)
            except ValueError as error:
                _add(found, shape, Unfit(1, row["file"], row["row"], str(error)))
    return found


def _add(found: dict[str, Unfit], shape: str, more: Unfit) -> None:
    had = found.get(shape, more._replace(number=0))
    first = min(had, more, key=lambda each: (each.file, each.row))
    found[shape] = first._replace(number=had.number + more.number)


def _exported(row: dict[str, Any], shape: str) -> dict[str, Any]:
    return export_row(Example(row["turns"], row["tools"]), row["source"], shape)
