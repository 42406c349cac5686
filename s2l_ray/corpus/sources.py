"""Where a corpus is (files anywhere, datasets folders, hub datasets), and its raw rows."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.bad_row import BadRow, Record
from s2l_ray.corpus.parsing import parse_lines

MIB = 2**20


HASHED = 64 * MIB  # a local file up to this size is known by its content, a larger one by its time


ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"  # ends a whole stream; without it batches may lack


HUB_ROWS = 50_000  # rows of a hub dataset that one task reads


ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class SourceFile:
    """One file to read; of a hub dataset, a range of its rows."""

    name: str  # as the user would write it
    root: str  # a URI that opens the filesystem; "" is local
    path: str  # on that filesystem; a hub dataset's name
    format: str  # jsonl, parquet, arrow (of a datasets folder) or hub
    bytes: int  # about, uncompressed
    stamp: str  # changes with the content
    start: int = 0
    stop: int = 0


def resolve(config: CorpusConfig) -> list[SourceFile]:
    """The files of config.path, by name, each once; ValueError if a path matches nothing."""
    paths = [config.path] if isinstance(config.path, str) else config.path
    found: dict[Any, SourceFile] = {}
    for path in paths:
        if path.startswith("hf://"):
            files = _hub(path.removeprefix("hf://"), config.split)
        else:
            files = _find(path, config)
        if not files:
            raise ValueError(
                f"corpus.path: {path!r} matches no file to read; wanted files that end in "
                f"{', '.join(ENDINGS)} (also {' or '.join(COMPRESSED)}), or a datasets folder"
            )
        found |= {(file.root, file.path, file.start): file for file in files}
    return sorted(found.values(), key=lambda file: (file.name, file.start))


def fingerprint_of(
    config: CorpusConfig, digest: dict[str, int] | None = None, *, seed: int = 42
) -> str:
    """Of the sources (names, sizes, content or time or hub commit) and of the settings.

    A Ray Dataset goes by its digest. The seed counts if examples are held out.
    """
    settings = config.model_dump(mode="json", exclude={"max_rejected_share"})
    settings |= {"seed": seed if config.heldout_share else None}
    if digest is None:
        sources: Any = [[f.name, f.bytes, f.stamp, f.start] for f in resolve(config)]
    else:
        sources = digest
        settings |= {"path": None, "format": None, "split": None}
    text = json.dumps([settings, sources], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _find(path: str, config: CorpusConfig) -> list[SourceFile]:
    """Files of a path, folder or glob on any filesystem that pyarrow opens."""
    remote = "://" in path
    text, _, query = path.partition("?") if remote else (os.path.expanduser(path), "", "")
    magic = next((i for i, letter in enumerate(text) if letter in "*?["), None)
    if not remote and os.path.exists(text):
        magic = None
    cut = len(text) if magic is None else text.rfind("/", 0, magic) + 1
    base, pattern = text[:cut], text[cut:]
    root = base + (f"?{query}" if query else "") if remote else ""
    try:
        if remote:
            filesystem, start = pafs.FileSystem.from_uri(root)
        else:
            filesystem, start = pafs.LocalFileSystem(), os.path.abspath(base or ".")
        start = start.rstrip("/")
        top = filesystem.get_file_info(start)
        if top.type == pafs.FileType.File:
            kind = _kind_of(base, config.format) or ("jsonl" if config.format == "jsonl" else "")
            if not kind:
                raise ValueError(
                    f"corpus.path: {path}: no known ending; wanted {', '.join(ENDINGS)} or "
                    f"corpus.format"
                )
            return [_file(filesystem, root, top, base, kind)]
        deep = magic is None or "/" in pattern or "**" in pattern
        selector = pafs.FileSelector(start, allow_not_found=True, recursive=deep)
        infos = {i.path[len(start) + 1 :]: i for i in filesystem.get_file_info(selector)}
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"corpus.path: {path}: {error}") from error
    base = base if base.endswith("/") or not base else base + "/"
    if "dataset_dict.json" in infos and magic is None:  # several splits
        if f"{config.split}/state.json" not in infos:
            splits = sorted(n.split("/")[0] for n in infos if n.endswith("/state.json"))
            raise ValueError(
                f"corpus.path: {path}: no split {config.split!r} (corpus.split, evaluation.split); "
                f"found {', '.join(splits)}"
            )
        return _find(f"{base}{config.split}" + (f"?{query}" if query else ""), config)
    if "state.json" in infos and magic is None:  # datasets.save_to_disk
        with filesystem.open_input_stream(infos["state.json"].path) as stream:
            names = _saved_files(stream.read(), infos, path)
        return [_file(filesystem, root, infos[name], base + name, "arrow") for name in names]
    found = []
    for name, info in infos.items():
        if magic is None:
            taken = not any(piece[0] in "._" for piece in name.split("/"))
        else:
            taken = _matches(name.split("/"), pattern.split("/"))
        found_kind = _kind_of(name, config.format)
        if info.type == pafs.FileType.File and taken and found_kind:
            found.append(_file(filesystem, root, info, base + name, found_kind))
    return found


def _saved_files(state: bytes, infos: Mapping[str, Any], path: str) -> list[str]:
    """The files that a datasets folder's state.json lists, all of them among `infos`."""
    try:
        names = [data["filename"] for data in json.loads(state)["_data_files"]]
        missing = [name for name in names if name not in infos]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"corpus.path: {path}: damaged: state.json lists no files ({error!r})"
        ) from None
    if missing:
        raise ValueError(f"corpus.path: {path}: no {missing[0]}, which state.json lists")
    return names


def _matches(name: list[str], pattern: list[str]) -> bool:
    """Shell rules, by folder levels: * stays inside a level, ** spans any number."""
    if not name or not pattern:
        return not name and (not pattern or pattern == ["**"])
    if pattern[0] == "**":
        return _matches(name, pattern[1:]) or _matches(name[1:], pattern)
    return fnmatch.fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _kind_of(name: str, wanted: str) -> str | None:
    """How a file of this name is read: jsonl, parquet, or not at all."""
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    kind = ENDINGS.get(os.path.splitext(name)[1].lower())
    return kind if wanted in ("auto", kind) else None


def local_stamp(path: str, size: int, mtime_ns: int) -> str:
    """What changes with a local file's content: of a small one that content itself, so that a copy
    is the same file."""
    if size > HASHED:
        return f"{size}-{mtime_ns}"
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(), digest_size=16).hexdigest()


def _file(
    filesystem: pafs.FileSystem, root: str, info: pafs.FileInfo, name: str, kind: str
) -> SourceFile:
    remote = f"{info.size}-{info.mtime_ns}"
    stamp = remote if root else local_stamp(info.path, info.size, info.mtime_ns)
    squeezed = kind == "parquet" or name.endswith(COMPRESSED)
    return SourceFile(name, root, info.path, kind, info.size * (4 if squeezed else 1), stamp)


def _hub(name: str, split: str) -> list[SourceFile]:
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"hf://{name}: needs the package's extra 'huggingface' (datasets)"
        ) from None
    try:
        commit = huggingface_hub.HfApi().dataset_info(name).sha or ""
        data = datasets.load_dataset(name, split=split, revision=commit)
    except Exception as error:  # of several HTTP libraries
        raise ValueError(f"corpus.path: hf://{name}, split {split!r}: {error}") from error
    spans = [(i, min(i + HUB_ROWS, len(data))) for i in range(0, len(data), HUB_ROWS)]
    size = data.data.nbytes // max(1, len(data))
    return [
        SourceFile(f"hf://{name}", "", name, "hub", size * (j - i), commit, i, j) for i, j in spans
    ]


def records(file: SourceFile, split: str) -> Iterator[Record]:
    """Row number, raw text and content of every row, in bounded memory."""
    try:
        if file.format == "hub":
            import datasets

            data = datasets.load_dataset(file.path, split=split, revision=file.stamp)
            for index in range(file.start, file.stop):
                yield index + 1, None, data[index]
            return
        filesystem = pafs.FileSystem.from_uri(file.root)[0] if file.root else pafs.LocalFileSystem()
        if file.format == "jsonl":
            if not file.bytes and file.path.endswith(COMPRESSED):
                raise OSError("cut short: 0 bytes")
            with filesystem.open_input_stream(file.path, compression="detect") as stream:
                lines = io.BufferedReader(stream, MIB)
                yield from parse_lines(lines, file.name)
            return
        if file.format == "parquet":
            with filesystem.open_input_file(file.path) as data:
                table = pq.ParquetFile(data, page_checksum_verification=True)
                batches = table.iter_batches(batch_size=1000)
                yield from _numbered(batches, table.schema_arrow, table.metadata.num_rows)
        else:
            with filesystem.open_input_file(file.path) as data:
                size = data.size()
                if size < len(ARROW_END) or data.read_at(8, size - 8) != ARROW_END:
                    raise OSError("cut short: no end of stream")
                data.seek(0)
                reader = pa.ipc.open_stream(data)
                yield from _numbered(reader, reader.schema)
    # UnicodeError: a column's name
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(f"{file.name}: cannot be read as {file.format}: {error}") from error


def _numbered(batches: Any, schema: pa.Schema, num_rows: int | None = None) -> Iterator[Record]:
    """Rows of batches, from 1; OSError if a column stands twice or there are not num_rows."""
    if len(set(schema.names)) < len(schema):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise OSError(f"column {twice!r} stands twice")
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, 1000):
            for raw, row in _rows_of(batch.slice(start, 1000)):
                number += 1
                yield number, raw, row
    if num_rows not in (None, number):
        raise OSError(f"{number:,} rows, its footer lists {num_rows:,}")


def _rows_of(batch: pa.RecordBatch) -> list[tuple[str | None, Any]]:
    try:
        return [(None, row) for row in batch.to_pylist()]
    # Values that Python cannot hold: bytes that are not UTF-8, a date beyond the year 9999.
    except (ValueError, OverflowError):
        return [_row_of(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _row_of(batch: pa.RecordBatch) -> tuple[str | None, Any]:
    """A row; where a value cannot be read, what can be of it, as text, and why."""
    row, fault = {}, None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            [row[name]] = column.to_pylist()
        except (ValueError, OverflowError) as error:
            fault = BadRow("unreadable value", f"column {name!r}: {error}")
    return (json.dumps(row, ensure_ascii=False, default=str), fault) if fault else (None, row)
