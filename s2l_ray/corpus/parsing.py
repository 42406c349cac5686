"""Rows of files and Ray Datasets as tables of examples and rejected rows, in Ray tasks."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.columns import Columns, FileColumns
from s2l_ray.corpus.files.batches import slices_of_batch
from s2l_ray.corpus.identity import (
    are_heldout,
    are_used,
    content_of,
    contents_of,
    draw_of,
    draws_of,
    example_id_of,
    example_ids_of,
    hash63,
    is_heldout,
    is_used,
)
from s2l_ray.corpus.mapping import RowMap, mapped, row_map_of
from s2l_ray.corpus.regular import Examples, regular_examples
from s2l_ray.corpus.rows import BadRow, Batch, SourceRow, check_columns, one_by_one, text_of
from s2l_ray.corpus.shapes import RowSettings, parse, row_settings_of, topic_of
from s2l_ray.corpus.trees import with_chats
from s2l_ray.execution.remote import rows_of
from s2l_ray.store.schemas import EXAMPLES_WITH_TOPIC, TURNS

PARSED = pa.schema(  # an example (the reason is null), or a rejected row (the example_id is null)
    [
        ("part", pa.int32()),
        *EXAMPLES_WITH_TOPIC,
        ("heldout", pa.bool_()),  # by a share; null if it is so many of each source
        ("draw", pa.int64()),  # the hash that decides then
        ("raw", pa.string()),
        ("reason", pa.string()),
        ("category", pa.string()),  # of the reason: see BadRow
    ]
)

BATCH_ROWS, BATCH_BYTES = 2000, 2**23


def settings_of(dataset: ray.data.Dataset, config: CorpusConfig) -> dict[str, Any]:
    """Return the columns' names, which only the rows tell if they are mapped, and the map."""
    names = [] if config.map else dataset.columns() or []
    return {"names": names, "row_map": row_map_of(config)}


def parse_batch(batch: pa.Table | pa.RecordBatch, **settings: Any) -> Iterator[pa.Table]:
    """Yield tables of PARSED from rows of a Ray Dataset, which have no numbers."""
    batches = [batch] if isinstance(batch, pa.RecordBatch) else batch.to_batches()
    slices = (each for some in batches for each in slices_of_batch(some, sys.maxsize))
    known = bool(settings["names"])
    yield from parse_rows(slices, "dataset", first=known, whole=known, **settings)


def digest_of(dataset: ray.data.Dataset, config: CorpusConfig) -> dict[str, int]:
    """Count a Ray Dataset's rows, sum their ids and their bytes of content, in any order.

    Reads the dataset once.
    """
    digests = dataset.map_batches(
        digest_batch,
        batch_format="pyarrow",
        fn_kwargs={"config": config} | settings_of(dataset, config),
    )
    found = list(rows_of(digests))
    total = {name: sum(int(row[name]) for row in found) for name in ("rows", "ids", "bytes")}
    return total | {"ids": total["ids"] % 2**63}


def digest_batch(batch: pa.Table, **settings: Any) -> Iterator[pa.Table]:
    """Yield rows whose sums are the digest of a batch. settings: config, and those of settings_of.

    Content is all that reaches a model: tools, calls and reasoning too.
    """
    for table in parse_batch(batch, **settings, seed=0, num_parts=1):
        ids = zip(table["example_id"].to_pylist(), table["raw"].to_pylist(), strict=True)
        total = sum(hash63(raw.encode()) if raw else known for known, raw in ids)
        turns = pc.list_flatten(table["turns"])
        texts = [pc.struct_field(turns, name) for name in ("text", "reasoning", "tool_calls")]
        sizes = [pc.sum(pc.binary_length(t)) for t in (*texts, table["tools"], table["raw"])]
        size = sum(size.as_py() or 0 for size in sizes)
        yield pa.table({"rows": [table.num_rows], "ids": [total % 2**63], "bytes": [size]})


def parse_rows(
    rows: Iterable[SourceRow | Batch],
    file: str,
    *,
    config: CorpusConfig,
    seed: int,
    num_parts: int,
    names: Sequence[str] = (),
    row_map: RowMap | None = None,
    first: bool = True,
    whole: bool = True,
) -> Generator[pa.Table, None, FileColumns]:
    """Yield tables of PARSED, at least one, so that the schema is known. Return the columns seen.

    names: of the columns, if they are known. first, whole: whether the rows begin the file, and
    whether they are all of it. ValueError as in FileColumns.
    """
    settings = row_settings_of(config)
    columns = FileColumns(file, settings.given, first)
    if names:
        columns.add(frozenset(names))
    found: Iterator[SourceRow | pa.Table]
    if row_map:
        found = mapped(one_by_one(rows), row_map)
    else:
        others = _by_columns(rows, columns, settings, config, seed, num_parts)
        found = with_chats(others, settings.rules.roles)
    table, size, yielded = list[tuple[Any, ...]](), 0, False
    for row in found:
        if isinstance(row, pa.Table):
            yield row
            yielded = True
            continue
        try:
            if isinstance(row.content, dict):
                check_columns(row.content)
                columns.add(frozenset(row.content))
            line, content_bytes = _example(row, file, settings, columns.complete, config, seed)
        except BadRow as bad:
            line, content_bytes = _rejected(row, file, bad)
        if not is_used(line[0], config.share):
            continue
        table.append((line[0] * num_parts >> 63, *line[1:]))
        size += content_bytes
        if len(table) == BATCH_ROWS or size > BATCH_BYTES:
            yield _table(table)
            table, size, yielded = [], 0, True
    if whole:
        columns.check()
    if table or not yielded:
        yield _table(table)
    return columns


def _by_columns(
    rows: Iterable[SourceRow | Batch],
    columns: FileColumns,
    settings: RowSettings,
    config: CorpusConfig,
    seed: int,
    num_parts: int,
) -> Iterator[SourceRow | pa.Table]:
    """Yield tables of PARSED for the regular rows of batches, and all others one by one."""
    for batch in rows:
        if isinstance(batch, SourceRow):
            yield batch
            continue
        # Rows of JSON may lack columns. Until one has been complete, each counts by itself.
        known = batch.typed or columns.complete is not None
        table = batch.table() if known else None
        if table is None:
            yield from batch.rows()
            continue
        rest = np.ones(table.num_rows, bool)
        for examples in regular_examples(table, settings):
            columns.add(frozenset(table.schema.names), len(examples.rows))
            rest[examples.rows] = False
            numbers = batch.numbers(examples.rows)
            yield _table_of(examples, numbers, columns.file, config, seed, num_parts)
        if rest.any():
            yield from batch.rows(np.flatnonzero(rest).tolist())


def _table_of(
    examples: Examples,
    numbers: np.ndarray,
    file: str,
    config: CorpusConfig,
    seed: int,
    num_parts: int,
) -> pa.Table:
    """Return examples as a table of PARSED."""
    offsets, roles, texts = examples.turns
    pairs = list(zip(roles.tolist(), texts.to_pylist(), strict=True))
    contents = contents_of(pairs, offsets.tolist())
    keys = example_ids_of(examples.sources.to_pylist(), contents)
    of_turns = {"role": pa.array(roles, pa.string()), "text": texts}
    fields = list(TURNS.value_type)
    turns = pa.StructArray.from_arrays(
        [of_turns.get(field.name, pa.nulls(len(texts), field.type)) for field in fields],
        fields=fields,
    )
    columns = {
        "part": _parts_of(keys, num_parts),
        "example_id": keys,
        "source": examples.sources,
        "turns": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), turns),
        "file": pa.repeat(file, len(keys)),
        "row": numbers,
        "topic": examples.topics,
    }
    if config.heldout_per_source is None:
        columns["heldout"] = are_heldout(contents, config.heldout_share, seed)
    else:
        columns["draw"] = draws_of(contents, seed)
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(keys), field.type)
        for field in PARSED
    ]
    table = pa.Table.from_arrays(arrays, schema=PARSED)
    return table if config.share == 1 else table.filter(are_used(keys, config.share))


def _parts_of(keys: np.ndarray, num_parts: int) -> np.ndarray:
    """Return keys * num_parts >> 63; the product may have more than 64 bits."""
    high, low = keys >> 32, keys & 0xFFFFFFFF
    return (high * num_parts + (low * num_parts >> 32)) >> 31


def _example(
    row: SourceRow,
    file: str,
    settings: RowSettings,
    like: Columns | None,
    config: CorpusConfig,
    seed: int,
) -> tuple[tuple[Any, ...], int]:
    """Return the key that the row goes to a part by, its other values of PARSED, and its bytes."""
    if isinstance(row.content, BadRow):
        raise row.content
    source, example = parse(row.content, settings, typed=row.typed, like=like)
    topic = topic_of(row.content, settings)
    content = content_of(example)
    key = example_id_of(source, content)
    held: tuple[bool | None, int | None]
    if config.heldout_per_source is None:
        held = is_heldout(content, config.heldout_share, seed), None
    else:
        held = None, draw_of(content, seed)
    line = (key, key, source, *example, file, row.number, topic, *held, None, None, None)
    return line, len(content)


def _rejected(row: SourceRow, file: str, bad: BadRow) -> tuple[tuple[Any, ...], int]:
    """Return the same as `_example`."""
    raw = text_of(row)
    key = hash63(f"{file}:{row.number}:{raw}".encode(errors="replace"))
    texts = (_printable(text) for text in (raw, bad.reason, bad.category))
    return (key, None, None, None, None, file, row.number, None, None, None, *texts), len(raw)


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(PARSED)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, PARSED, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PARSED)
