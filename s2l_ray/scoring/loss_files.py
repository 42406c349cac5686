"""Files of losses that something else computed, read as rows of (key, point, order, loss).

| what | keys |
| --- | --- |
| a folder of record.LossRecorder | `tokens`, or `row` and `example_id` through its rows |
| `.npy` [N, T] | `row` |
| a folder with a `.pt` or `.npy` [N] per checkpoint, such as checkpoint-500/losses.pt | `row` |
| Parquet, JSON lines, CSV: `row` or `example_id`, and `losses` or else `step` and `loss` | that |

Rows count from 0. A point is a checkpoint's step, an epoch, or a position in `losses`. If a key and
a point come twice, the loss of the highest order counts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from s2l_ray.config import LossesConfig, StorageConfig
from s2l_ray.store import Store
from s2l_ray.store.checksums import checksum_of

RECORDS = pa.schema(
    [
        ("key", pa.int64()),
        ("point", pa.int64()),
        ("order", pa.int64()),
        ("loss", pa.float32()),
    ]
)

TABLES = (".parquet", ".jsonl", ".csv")
ARRAYS = (".npy", ".pt")


@dataclass(frozen=True)
class LossFile:
    """A file to read. point: of an array per checkpoint; None if the file has several points."""

    store: Store
    name: str
    point: int | None = None


@dataclass(frozen=True)
class LossFiles:
    """Files of losses. keys: what they can be joined by, the default first.

    rows: the files of a recorder's folder that translate its keys, which hash tokens.
    """

    losses: list[LossFile]
    keys: tuple[str, ...]
    rows: list[LossFile]

    def identity(self) -> list[str]:
        """Return what identifies the files: names and checksums."""
        found = []
        for file in [*self.losses, *self.rows]:
            named = re.search(r"-([0-9a-f]{16})\.arrow$", file.name)
            found.append(
                file.name
                if named
                else f"{file.name} {checksum_of(file.store.read_bytes(file.name))}"
            )
        return found


def find(path: str, storage: StorageConfig) -> LossFiles:
    """Find the files of losses at a path: a file or folder, local or on S3. ValueError if none."""
    place = path.rstrip("/")
    if Path(place).suffix in (*TABLES, *ARRAYS):
        folder, _, name = place.rpartition("/")
        names, store = [name], Store(folder or ".", storage)
        if not store.exists(name):
            raise ValueError(f"losses.path: {path}: there is no such file")
    else:
        store = Store(place, storage)
        names = [*store.objects.sizes("")]
    recorded = sorted(name for name in names if re.match(r"losses/session-\d+-", name))
    if recorded:
        rows = [LossFile(store, n) for n in sorted(names) if re.match(r"rows/part-\d+-", n)]
        keys = ("tokens", "row", "example_id") if rows else ("tokens",)
        return LossFiles([LossFile(store, name) for name in recorded], keys, rows)
    tables = sorted(name for name in names if name.endswith(TABLES))
    arrays = sorted(name for name in names if name.endswith(ARRAYS))
    if tables and arrays:
        raise ValueError(
            f"losses.path: {path}: found tables such as {tables[0]} and arrays such as "
            f"{arrays[0]}; expected one kind"
        )
    if tables:
        schema = _table(store.read_bytes(tables[0]), tables[0]).schema
        found = [name for name in ("row", "example_id") if name in schema.names]
        return LossFiles([LossFile(store, name) for name in tables], tuple(found), [])
    if len(arrays) == 1 and arrays[0].endswith(".npy"):
        return LossFiles([LossFile(store, arrays[0])], ("row",), [])
    if arrays:
        return LossFiles(_by_checkpoint(store, arrays), ("row",), [])
    raise ValueError(
        f"losses.path: {path}: found no losses; expected a folder of LossRecorder, .npy, .pt, "
        f"{', '.join(TABLES)}"
    )


def key_of(config: LossesConfig, files: LossFiles) -> str:
    """Return what the losses are joined by. ValueError if the files have no such key."""
    if not files.keys:
        raise ValueError(
            f"losses.path: {config.path}: found neither a column row nor example_id; one of them "
            "must say which example a loss belongs to"
        )
    if config.key is not None and config.key not in files.keys:
        raise ValueError(
            f"losses.key: found {config.key}, but {config.path} has {' and '.join(files.keys)}"
        )
    return config.key or files.keys[0]


def read(file: LossFile, key: str) -> Iterator[pa.Table]:
    """Yield the file's losses as tables of RECORDS, some millions of rows at a time at most.

    key: the column of a table, or `row` for arrays; a recorder's own keys for its files.
    """
    data, where = file.store.read_bytes(file.name), file.store.address(file.name)
    if file.name.endswith(".arrow"):
        yield _recorded(_recorder_table(data, where), file.name)
    elif file.name.endswith(TABLES):
        yield from _of_table(_table(data, where), key, where)
    else:
        values = _array(data, file.name, where)
        if file.point is not None and values.ndim == 1:
            yield _records(np.arange(len(values)), file.point, 0, values)
        elif file.point is None and values.ndim == 2:
            for point in range(values.shape[1]):
                yield _records(np.arange(len(values)), point + 1, 0, values[:, point])
        else:
            expected = "[N, T]" if file.point is None else "[N], one loss per row"
            raise ValueError(f"{where}: found an array {list(values.shape)}, expected {expected}")


def rows_of(file: LossFile, column: str) -> pa.Table:
    """Return what a file of a recorder's folder says of its keys: columns key and to."""
    where = file.store.address(file.name)
    table = _recorder_table(file.store.read_bytes(file.name), where)
    if column not in table.schema.names:
        raise ValueError(
            f"{where}: has no column {column}; expected a recorder's "
            f"`dataset` with it, or another losses.key"
        )
    try:
        to = table[column].cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise ValueError(f"{where}: {column}: expected integers: {error}") from None
    return pa.table({"key": table["key"], "to": to})


def _recorded(table: pa.Table, name: str) -> pa.Table:
    session = int(re.match(r"losses/session-(\d+)-", name)[1])  # type: ignore[index]
    order = session * 2**40 + np.arange(table.num_rows)
    return pa.table([table["key"], table["point"], order, table["loss"]], schema=RECORDS)


def _records(keys: Any, point: int, order: int, losses: np.ndarray) -> pa.Table:
    size = len(losses)
    return pa.table(
        [keys, np.full(size, point), np.full(size, order), np.asarray(losses, np.float32)],
        schema=RECORDS,
    )


def _of_table(table: pa.Table, key: str, where: str) -> Iterator[pa.Table]:
    names = table.schema.names
    if key not in names:
        raise ValueError(f"{where}: has no column {key!r}, found {', '.join(names)}")
    try:
        keys = table[key].cast(pa.int64())
        if "losses" in names:
            table = table.append_column("_", keys).combine_chunks()
            lists = table["losses"].cast(pa.list_(pa.float32())).combine_chunks()
            lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
            lengths = pc.list_value_length(lists)
            width = lengths[0].as_py() if len(lengths) else 0
            if not width or pc.any(pc.not_equal(lengths, width)).as_py() or lengths.null_count:
                raise ValueError(
                    f"{where}: losses: expected lists of one length, found "
                    f"{pc.min(lengths)} to {pc.max(lengths)} numbers"
                )
            values = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            for point in range(width):
                yield _records(keys, point + 1, 0, values[:, point])
        elif {"step", "loss"} <= {*names}:
            order = np.arange(table.num_rows)
            columns = [keys, table["step"].cast(pa.int64()), order]
            yield pa.table([*columns, table["loss"].cast(pa.float32())], schema=RECORDS)
        else:
            raise ValueError(
                f"{where}: found the columns {', '.join(names)}; expected losses (a list per row), "
                "or step and loss"
            )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"{where}: not numbers: {error}") from None


def _recorder_table(data: bytes, where: str) -> pa.Table:
    try:
        table = pa.ipc.open_file(data).read_all()
        table.validate(full=True)  # offsets beyond their buffers would read other memory
    except pa.ArrowException as error:
        raise ValueError(f"{where}: damaged: {error}") from None
    return table


def _table(data: bytes, where: str) -> pa.Table:
    try:
        if where.endswith(".parquet"):
            return pa.parquet.read_table(io.BytesIO(data))
        reader = pa.json.read_json if where.endswith(".jsonl") else pa.csv.read_csv
        return reader(io.BytesIO(data))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{where}: cannot be read: {error}") from None


def _array(data: bytes, name: str, where: str) -> np.ndarray:
    """Read an array of numbers. Runs no code from the file, and unpickles nothing but tensors."""
    try:
        if name.endswith(".npy"):
            found: Any = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            import torch

            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if isinstance(found, list | tuple):
                found = torch.stack([torch.as_tensor(value) for value in found])
            found = found.float().numpy()
        values = np.asarray(found, np.float32)
    except Exception as error:  # of torch, pickle and numpy, for damaged files and other content
        why = str(error).partition("\n")[0]
        raise ValueError(f"{where}: expected an array of numbers: {why}") from None
    return values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values


def _by_checkpoint(store: Store, names: list[str]) -> list[LossFile]:
    """Order arrays by the last number in their paths, which is the step."""
    files: dict[int, LossFile] = {}
    for name in names:
        numbers = re.findall(r"\d+", name)
        if not numbers:
            raise ValueError(
                f"{store.address(name)}: expected a number in the name, the checkpoint's step"
            )
        step = int(numbers[-1])
        if step in files:
            raise ValueError(
                f"{store.address(name)}: {files[step].name} is of step {step} too; expected one "
                "file of losses per checkpoint"
            )
        files[step] = LossFile(store, name, step)
    return [files[step] for step in sorted(files)]
