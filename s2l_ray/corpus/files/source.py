"""A file of a corpus, and how it is opened."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from s2l_ray.corpus import demo, demo_uneven
from s2l_ray.corpus.files.endings import compression_of
from s2l_ray.corpus.files.foreign import MAGIC, foreign

MIB = 2**20
HASHED = 64 * MIB  # local files up to this size are identified by content, larger ones by time
EXPANSION, SMALL = 1000, 2**30  # times its compressed size that a file may have, above SMALL bytes
XZ_MEMORY = 256 * MIB  # of a decoder; `xz -9` makes files that need a quarter
DEMO = "demo"  # root of the built-in corpora
BUILT_IN = {
    "demo": demo.content,
    "demo-uneven": demo_uneven.content,
    "demo-uneven-test": demo_uneven.test_content,
}


@dataclass(frozen=True)
class SourceFile:
    """One file to read, or a range of it."""

    name: str  # as the user would write it; control characters are escaped
    root: str  # a URI that opens the filesystem; "" is local, DEMO a built-in corpus
    path: str  # on that filesystem
    format: str  # see endings.py
    bytes: int  # uncompressed, estimated
    stamp: str  # changes with the content
    start: int = 0  # bytes of JSON lines, row groups of Parquet
    stop: int = 0  # 0: the whole file
    first: int = 1  # number of the first row of a range
    partitions: dict[str, str] = field(default_factory=dict)  # columns that folder names give


@dataclass
class Found:
    """The files of a path, and the names of what is passed over with the reasons."""

    files: list[SourceFile] = field(default_factory=list)
    passed: dict[str, str] = field(default_factory=dict)


def filesystem_of(file: SourceFile) -> pafs.FileSystem:
    """Open the filesystem that a file is on."""
    if file.root.startswith("hf://"):
        from s2l_ray.corpus.files.hub import hub_filesystem  # imports an HTTP client: 0.5 s

        return hub_filesystem()
    return pafs.FileSystem.from_uri(file.root)[0] if file.root else pafs.LocalFileSystem()


def open_file(file: SourceFile) -> pa.NativeFile:
    """Open the bytes of a file, at any position."""
    if file.root == DEMO:
        return pa.BufferReader(BUILT_IN[file.name]())
    if not file.root:
        return pa.OSFile(os.fsencode(file.path))  # pafs refuses names that are not UTF-8
    return filesystem_of(file).open_input_file(file.path)


@contextmanager
def open_text(file: SourceFile) -> Iterator[io.BufferedReader]:
    """Open the uncompressed bytes of a text file, from the start.

    OSError if the content is not what the ending says.
    """
    kind = compression_of(file.path)
    with open_file(file) as data:
        head = data.read(512)
        data.seek(0)
        if kind is None or not head:
            yield io.BufferedReader(data, MIB)
            return
        if not head.startswith(MAGIC[kind]):
            found = foreign(head)
            raise OSError(f"expected {kind} data, got {found.reason if found else 'other bytes'}")
        with _Xz(data) if kind == "xz" else pa.CompressedInputStream(data, kind) as stream:
            yield io.BufferedReader(_Bounded(stream, data.size()), MIB)


def check_expansion(found: int, size: int) -> None:
    """Raise OSError if a file is larger without compression than files of its size are."""
    if found > max(SMALL, EXPANSION * size):
        raise OSError(
            f"{size:,} bytes become more than {found:,} without compression, over {EXPANSION:,} "
            "times as many; if you trust the file, decompress it first"
        )


class _Bounded(io.RawIOBase):
    """The bytes of a stream that is being decompressed. size: of the compressed file."""

    def __init__(self, stream: Any, size: int) -> None:
        self.stream, self.size, self.found = stream, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.stream.readinto(buffer)
        self.found += count
        check_expansion(self.found, self.size)
        return count


class _Xz(io.RawIOBase):
    """The content of an xz file, of one stream or several, with little memory.

    Unlike lzma.LZMAFile it refuses a file that asks for gigabytes, and what follows the streams.
    """

    def __init__(self, data: pa.NativeFile) -> None:
        self.data, self.decoder = data, _xz_decoder()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, given, found = memoryview(buffer), b"", b""
        while not found:
            if self.decoder.eof:
                given = self.decoder.unused_data
                while not given.strip(b"\0"):  # padding
                    if not (given := self.data.read(MIB)):
                        return 0
                given, self.decoder = given.lstrip(b"\0"), _xz_decoder()
            elif self.decoder.needs_input and not (given := self.data.read(MIB)):
                raise EOFError("cut short: no end of stream")
            try:
                found = self.decoder.decompress(given, len(view))
            except lzma.LZMAError as error:
                raise OSError(f"xz: {error} (memory is limited to {XZ_MEMORY:,} bytes)") from None
            given = b""
        view[: len(found)] = found
        return len(found)


def _xz_decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=XZ_MEMORY)


def fault_of(file: SourceFile) -> str:
    """Return what a file that cannot be read is instead, as its first bytes tell; "" if unknown."""
    try:
        with open_file(file) as data:
            fault = foreign(data.read(512))
    except (pa.ArrowException, OSError):
        return ""
    own = {"parquet": "Parquet", "arrow": "Arrow"}.get(file.format, compression_of(file.path))
    return fault.reason if fault and fault.category != f"{own} data" else ""


def find_built_in(path: str) -> Found:
    """Find a built-in corpus. ValueError if the working folder has something of its name."""
    if os.path.lexists(path):
        raise ValueError(
            f"corpus.path: {path!r} is a built-in corpus, but there is also a file or folder "
            f"{os.path.abspath(path)!r}; write './{path}' to read that, or rename it"
        )
    data = BUILT_IN[path]()
    stamp = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Found([SourceFile(path, DEMO, f"{path}.jsonl", "jsonl", len(data), stamp)])


@lru_cache(maxsize=100_000)  # a run asks for the same files several times
def local_stamp(path: str, size: int, mtime_ns: int) -> str:
    """Return what changes with a local file's content.

    For a small file that is the content itself, so that a copy counts as the same file.
    """
    if size > HASHED:
        return f"{size}-{mtime_ns}"
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(), digest_size=16).hexdigest()
