"""A file of a corpus, and the filesystem that it is on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import pyarrow.fs as pafs

MIB = 2**20
HASHED = 64 * MIB  # local files up to this size are identified by content, larger ones by time


@dataclass(frozen=True)
class SourceFile:
    """One file to read, or a range of it: see ranges.py, and hub.py for rows of a hub dataset."""

    name: str  # as the user would write it
    root: str  # a URI that opens the filesystem; "" is local
    path: str  # on that filesystem; the name of a hub dataset
    format: str  # jsonl, parquet, arrow (in a folder saved by datasets) or hub
    bytes: int  # uncompressed, estimated
    stamp: str  # changes with the content
    start: int = 0
    stop: int = 0  # 0: the whole file
    first: int = 1  # number of the first row of a range


def filesystem_of(file: SourceFile) -> pafs.FileSystem:
    """Open the filesystem that a file is on."""
    return pafs.FileSystem.from_uri(file.root)[0] if file.root else pafs.LocalFileSystem()


@lru_cache(maxsize=100_000)  # a run asks for the same files several times
def local_stamp(path: str, size: int, mtime_ns: int) -> str:
    """Return what changes with a local file's content.

    For a small file that is the content itself, so that a copy counts as the same file.
    """
    if size > HASHED:
        return f"{size}-{mtime_ns}"
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(), digest_size=16).hexdigest()
