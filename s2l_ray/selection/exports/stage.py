"""Exports as stages, and the check of every example before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from s2l_ray.corpus.messages import conversation_of
from s2l_ray.corpus.rows import Example
from s2l_ray.execution.parts import StageParts, fold_parts, make_parts
from s2l_ray.selection.exports.formats import FORMATS, formatted, table_of
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, completed, completed_subset
from s2l_ray.store.views import SelectionView

logger = logging.getLogger(__name__)

DATA = "data"  # the folder of the data files alone, for programs that read all of a folder
README = """\
---
configs:
- config_name: default
  data_files: {data}
---
# {name}

{rows:,} examples chosen by {selector}, in the order of their ranks.

- Read by {reader}.
- `datasets.load_dataset` reads this folder.
- `example_id` is the run's id of the example; `source`, `file` and `row` say where it comes from.
"""
WEIGHTS = """\
- `weight` is how many examples of the corpus a row stands for, and the factor of its loss in
  training: divide the weighted sum of a batch's losses by the weighted number of its labels.
"""
IGNORED = "{trainer} does not read the column `weight`, and trains as if all examples were equal"


class Unfit(NamedTuple):
    """Examples that an export has no form for: how many, and the first by file and row."""

    number: int
    file: str
    row: int
    why: str


def export(store: Store, subset: Manifest, name: str, *, folder: str, fingerprint: str) -> Manifest:
    """Write a subset in the format of that name: a data file per part of the subset, in data/, and
    beside it README.md and what the format's reader wants. All are parts of the stage.

    ValueError for an example that does not fit, with its file and row.
    """
    form = FORMATS[name]
    units = [
        {"unit": f"{DATA}/{part.unit.rpartition('/')[2]}", "part": part} for part in subset.parts
    ]
    stage = StageParts(folder, fingerprint, units, {})
    args = (store, subset.folder, name)
    made = make_parts(store, [stage], _Export, args, label=f"export {name}", suffix=form.suffix)
    parts = made[folder]
    beside = form.beside(store.address(folder)) | {
        "README.md": README.format(
            data=f"{DATA}/*.{form.suffix}", name=name, rows=subset.rows, reader=form.reader,
            selector=subset.info["selector"],
        ) + _weights_told(subset, name)
    }  # fmt: skip
    manifest = store.commit(
        folder,
        fingerprint,
        parts,
        {"format": name, "examples": subset.rows},
        [store.write_beside(text.encode(), folder, file) for file, text in beside.items()],
    )
    # Other programs read the folder, not the manifest.
    listed = {part.file.removeprefix(f"{DATA}/") for part in manifest.parts}
    for file in store.names(folder, DATA):
        if file not in listed:
            store.remove(folder, DATA, file)
    return manifest


def _weights_told(subset: Manifest, name: str) -> str:
    """Say what the weights of a subset are, and warn if the format's reader ignores them."""
    if SelectionView(subset).weights is None:
        return ""
    if not (trainer := FORMATS[name].trainer):
        return WEIGHTS
    ignored = IGNORED.format(trainer=trainer)
    logger.warning(
        f"export {name}: {ignored}; train with target.train or the built-in loop to use weights"
    )
    return f"{WEIGHTS}- **{ignored}.**\n"


class _Export:
    def __init__(self, store: Store, folder: str, name: str) -> None:
        self.store, self.folder, self.name = store, folder, name

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        examples = completed_subset(self.store.read_part(self.folder, unit["part"]))
        try:
            return table_of(examples, self.name), {}
        except ValueError as error:
            raise ValueError(f"selection.export: {error}") from None


def check_exports(store: Store, examples: Manifest, names: Sequence[str]) -> None:
    """Raise ValueError if an example does not fit one of the formats, with its file and row.

    Examples without a turn that has labels are never chosen, and may have any form.
    """
    found: dict[str, Unfit] = {}
    args = store, examples.folder, names
    for unfit in fold_parts(_unfit, examples.parts, *args, label="check exports"):
        for name, mine in unfit.items():
            _add(found, name, mine)
    for name, (number, file, row, why) in found.items():
        raise ValueError(
            f"selection.export: {file}:{row}: {why} ({number:,} of {examples.rows:,} examples "
            f"cannot be written as {name})"
        )


def _unfit(part: Part, store: Store, folder: str, names: Sequence[str]) -> dict[str, Unfit]:
    found: dict[str, Unfit] = {}
    for row in completed(store.read_part(folder, part), EXAMPLES).to_pylist():
        for name in names:
            try:
                formatted(row, name)
            except ValueError as error:
                if conversation_of(Example(row["turns"], row["tools"])).trained:
                    _add(found, name, Unfit(1, row["file"], row["row"], str(error)))
    return found


def _add(found: dict[str, Unfit], name: str, more: Unfit) -> None:
    had = found.get(name, more._replace(number=0))
    first = min(had, more, key=lambda each: (each.file, each.row))
    found[name] = first._replace(number=had.number + more.number)
