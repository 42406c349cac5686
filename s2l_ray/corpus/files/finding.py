"""Files of a path, folder or glob, on any filesystem that pyarrow opens."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.source import SourceFile, local_stamp

ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
COMPRESSED = (".gz", ".zst")


def find(path: str, config: CorpusConfig) -> list[SourceFile]:
    """Find the files of a path, folder or glob on any filesystem that pyarrow opens."""
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
                    f"corpus.path: {path}: unknown ending; expected {', '.join(ENDINGS)}, or set "
                    "corpus.format"
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
        return find(f"{base}{config.split}" + (f"?{query}" if query else ""), config)
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
    """Return the files that the state.json of a saved dataset lists; all must be in `infos`."""
    try:
        names = [data["filename"] for data in json.loads(state)["_data_files"]]
        missing = [name for name in names if name not in infos]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"corpus.path: {path}: damaged: state.json lists no files ({error!r})"
        ) from None
    if missing:
        raise ValueError(f"corpus.path: {path}: {missing[0]} is missing, but state.json lists it")
    return names


def _matches(name: list[str], pattern: list[str]) -> bool:
    """Match by folder levels as a shell does: * stays inside a level, ** spans any number."""
    if not name or not pattern:
        return not name and (not pattern or pattern == ["**"])
    if pattern[0] == "**":
        return _matches(name, pattern[1:]) or _matches(name[1:], pattern)
    return fnmatch.fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _kind_of(name: str, format: str) -> str | None:
    """Return how a file of this name is read, or None if it is not read under this format."""
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    kind = ENDINGS.get(os.path.splitext(name)[1].lower())
    return kind if format in ("auto", kind) else None


def _file(
    filesystem: pafs.FileSystem, root: str, info: pafs.FileInfo, name: str, kind: str
) -> SourceFile:
    remote = f"{info.size}-{info.mtime_ns}"
    stamp = remote if root else local_stamp(info.path, info.size, info.mtime_ns)
    compressed = kind == "parquet" or name.endswith(COMPRESSED)
    return SourceFile(name, root, info.path, kind, info.size * (4 if compressed else 1), stamp)
