"""Where a corpus is: files on any filesystem, folders saved by `datasets`, datasets of a hub."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.mapping import row_map_of

MIB = 2**20
HASHED = 64 * MIB  # local files up to this size are identified by content, larger ones by time
HUB_ROWS = 50_000  # rows of a hub dataset that one task reads
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class SourceFile:
    """One file to read, or a range of rows of a hub dataset."""

    name: str  # as the user would write it
    root: str  # a URI that opens the filesystem; "" is local
    path: str  # on that filesystem; the name of a hub dataset
    format: str  # jsonl, parquet, arrow (in a folder saved by datasets) or hub
    bytes: int  # uncompressed, estimated
    stamp: str  # changes with the content
    start: int = 0
    stop: int = 0


def resolve(config: CorpusConfig) -> list[SourceFile]:
    """Find the files of config.path, each once, by name. ValueError if a path matches nothing."""
    paths = [config.path] if isinstance(config.path, str) else config.path
    found: dict[Any, SourceFile] = {}
    for path in paths:
        if path.startswith("hf://"):
            files = _hub(path.removeprefix("hf://"), config.split)
        else:
            files = _find(path, config)
        if not files:
            raise ValueError(
                f"corpus.path: {path!r} matches no file; expected files ending in "
                f"{', '.join(ENDINGS)} (also {' or '.join(COMPRESSED)}), or a folder saved by "
                "datasets"
            )
        found |= {(file.root, file.path, file.start): file for file in files}
    return sorted(found.values(), key=lambda file: (file.name, file.start))


def fingerprint_of(
    config: CorpusConfig, digest: dict[str, int] | None = None, *, seed: int = 42
) -> str:
    """Fingerprint the sources (names, sizes, content or time or hub commit) and the settings.

    A Ray Dataset is identified by its digest. The seed counts only if examples are held out.
    """
    settings = config.model_dump(mode="json", exclude={"max_rejected_share"})
    settings |= {"seed": seed if config.heldout_share else None}
    del settings["map"]
    if row_map := row_map_of(config):
        settings["map"] = [config.map, row_map.checksum]
    if digest is None:
        sources: Any = [[f.name, f.bytes, f.stamp, f.start] for f in resolve(config)]
    else:
        sources = digest
        settings |= {"path": None, "format": None, "split": None}
    text = json.dumps([settings, sources], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def local_stamp(path: str, size: int, mtime_ns: int) -> str:
    """Return what changes with a local file's content.

    For a small file that is the content itself, so that a copy counts as the same file.
    """
    if size > HASHED:
        return f"{size}-{mtime_ns}"
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(), digest_size=16).hexdigest()


# -- files and folders


def _find(path: str, config: CorpusConfig) -> list[SourceFile]:
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


# -- datasets of a hub


def _hub(name: str, split: str) -> list[SourceFile]:
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"corpus.path: hf://{name}: install the extra 'huggingface' (datasets)"
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
