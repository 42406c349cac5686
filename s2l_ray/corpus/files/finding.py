"""Files of a path, folder or glob, on any filesystem that pyarrow opens."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.endings import LEGEND, compression_of, format_of
from s2l_ray.corpus.files.matching import MAGIC, is_visible, matches
from s2l_ray.corpus.files.source import Found, SourceFile, local_stamp
from s2l_ray.corpus.files.splits import choose, partitions_of
from s2l_ray.corpus.files.walking import HIDDEN, Entry, Listing, entry_of, walk, walk_local
from s2l_ray.formatting import printable

# Files that describe a dataset.
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
STATE_BYTES = 2**26  # of a state.json, at most


@dataclass(frozen=True)
class _Place:
    """A path, divided into the file or folder to start from and the pattern below it."""

    path: str  # as the user wrote it
    base: str  # as the user wrote it; ends in / before a pattern
    pattern: str  # below it; "" for a file or a folder
    root: str  # see SourceFile
    filesystem: pafs.FileSystem
    start: str  # the base on the filesystem

    def file(self, entry: Entry, name: str, kind: str) -> SourceFile:
        """Describe a file. name: below the base."""
        shown = self.base + name
        stamp = f"{entry.size}-{entry.mtime_ns}"
        if not self.root:
            stamp = local_stamp(entry.path, entry.size, entry.mtime_ns)
        size = entry.size * (4 if kind == "parquet" or compression_of(entry.path) else 1)
        partitions = partitions_of(shown)
        return SourceFile(
            printable(shown), self.root, entry.path, kind, size, stamp, partitions=partitions
        )


def find(path: str, config: CorpusConfig) -> Found:
    """Find the files of a path, folder or glob. ValueError if it is no such thing."""
    try:
        return _find(path, config)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ValueError(f"corpus.path: {printable(path)}: {printable(str(error))}") from error


def _find(path: str, config: CorpusConfig) -> Found:
    place = _place(path)
    top = place.filesystem.get_file_info(place.start)
    if top.type != pafs.FileType.File or place.pattern:
        return _find_below(place, config)
    kind = format_of(place.base, config.format)
    kind = kind or (None if config.format == "auto" else config.format)
    if not kind:
        raise ValueError(f"unknown ending; expected {LEGEND}, or set corpus.format")
    return Found([place.file(entry_of(top), "", kind)])


def _find_below(place: _Place, config: CorpusConfig) -> Found:
    pattern = place.pattern
    deep = not pattern or "/" in pattern or "**" in pattern
    if place.root:
        listing = walk(place.filesystem, place.start, deep=deep)
    else:
        hidden = any(level.startswith(".") for level in pattern.split("/"))
        listing = walk_local(place.start, deep=deep, hidden=hidden)
    split = config.split or "train"
    if not pattern:
        if "dataset_dict.json" in listing.entries:
            return _saved_split(place, split, listing, config)
        if "state.json" in listing.entries:  # datasets.save_to_disk
            names = _saved_files(place, listing.entries)
            return Found([place.file(listing.entries[name], name, "arrow") for name in names])
    kinds, passed = _candidates(listing, pattern, config.format)
    shown = {name: printable(place.base + name) for name in kinds}
    kept, others = choose(shown, split, strict=not pattern)
    files = [place.file(listing.entries[name], name, kinds[name]) for name in kept]
    passed |= others | {name: "empty" for name in kept if not listing.entries[name].size}
    return Found(files, {printable(place.base + name): why for name, why in passed.items()})


def _candidates(
    listing: Listing, pattern: str, format: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return how each file is read that may hold rows, and why others are passed over."""
    kinds, passed = dict[str, str](), dict[str, str]()
    for name, why in listing.passed.items():
        if not pattern or matches(name, pattern, fnmatch.fnmatchcase):
            passed[name] = why
    for name, entry in listing.entries.items():
        pieces, why = name.split("/"), ""
        if pattern:
            taken = matches(name, pattern, is_visible)
            if not taken and matches(name, pattern, fnmatch.fnmatchcase):
                why = HIDDEN
            if taken and not entry.is_file and "**" not in pattern:
                why = "a folder; a pattern that ends in /** reads its files"
        else:
            taken = not any(piece[0] in "._" for piece in pieces)
            why = "" if taken else HIDDEN
        if entry.is_file and taken:
            if pieces[-1] in DESCRIPTIONS:
                why = "describes a dataset and holds no rows"
            elif kind := format_of(name, format):
                kinds[name] = kind
            elif format_of(name, "auto"):
                why = f"not of corpus.format {format}"
            else:
                why = "unknown ending"
        if why and (entry.is_file or pattern):
            passed[name] = why
    return kinds, passed


def _place(path: str) -> _Place:
    """Divide a path where its pattern begins: at the first level that is no existing name."""
    remote = "://" in path
    text, _, query = path.partition("?") if remote else (os.path.expanduser(path), "", "")
    query = f"?{query}" if query else ""
    levels = text.split("/")
    magic = [number for number, level in enumerate(levels) if any(c in level for c in MAGIC)]
    cut = len(levels)
    for number in magic:
        there = "/".join(levels[: number + 1])
        if not _exists(there, query if remote else None):
            cut = number
            break
    base, pattern = "/".join(levels[:cut]), "/".join(levels[cut:])
    if pattern and cut:
        base += "/"
    if not remote:
        start, root, filesystem = os.path.abspath(base or "."), "", pafs.LocalFileSystem()
    else:
        root = base + query
        filesystem, start = pafs.FileSystem.from_uri(root)
    start = start.rstrip("/") or "/"
    if (
        not pattern
        and base
        and not base.endswith("/")
        and filesystem.get_file_info(start).type == pafs.FileType.Directory
    ):
        base += "/"
    return _Place(path, base, pattern, root, filesystem, start)


def _exists(path: str, query: str | None) -> bool:
    """Return whether a file or folder is there. query: of a URI; None for a local path."""
    if query is None:
        return os.path.exists(path)
    try:
        filesystem, start = pafs.FileSystem.from_uri(path + query)
    except pa.ArrowInvalid:  # a pattern need not be a URI
        return False
    return filesystem.get_file_info(start).type != pafs.FileType.NotFound


# -- folders saved by `datasets`


def _saved_split(place: _Place, split: str, listing: Listing, config: CorpusConfig) -> Found:
    splits = sorted(n.split("/")[0] for n in listing.entries if n.endswith("/state.json"))
    if split not in splits:
        raise ValueError(
            f"no split {split!r} (corpus.split, evaluation.split); found {', '.join(splits)}"
        )
    _, _, query = place.root.partition("?")
    inner = _find(f"{place.base}{split}" + (f"?{query}" if query else ""), config)
    others = {
        printable(f"{place.base}{name}"): f"of the split {name!r}, not {split!r}"
        for name in splits
        if name != split
    }
    return Found(inner.files, others)


def _saved_files(place: _Place, entries: Mapping[str, Entry]) -> list[str]:
    """Return the files that the state.json of a saved dataset lists; all must be there."""
    with place.filesystem.open_input_stream(entries["state.json"].path) as stream:
        state = stream.read(STATE_BYTES + 1)
    if len(state) > STATE_BYTES:
        raise ValueError(f"damaged: state.json is larger than {STATE_BYTES:,} bytes")
    try:
        names = [data["filename"] for data in json.loads(state)["_data_files"]]
        missing = [name for name in names if name not in entries]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"damaged: state.json lists no files ({error!r})") from None
    if missing:
        raise ValueError(f"{missing[0]} is missing, but state.json lists it")
    return names
