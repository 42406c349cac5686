"""A run directory on any filesystem: part files, manifests, folders, atomic commit.

Layout of a stage (`losses/3f2a…/step-000500`, say): part files whose names carry their unit and a
checksum of their content, and `manifest.json`, created once, last, that lists exactly one file
per unit. Files the manifest does not list are ignored. Local paths and s3:// URIs work alike.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

FORMAT = 1  # of manifests; a reader refuses a newer one

TURNS = pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))
# Examples: the corpus, its held-out part, and (with more columns) a subset.
EXAMPLES = pa.schema(
    [
        ("example_id", pa.int64()),
        ("source", pa.string()),
        ("turns", TURNS),
        ("file", pa.string()),  # where the row came from
        ("row", pa.int64()),  # its line, counted from 1 (its number, in files without lines)
    ]
)
REJECTED = pa.schema(
    [("raw", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())]
)
TOKENS = pa.schema(
    [
        ("example_id", pa.int64()),
        ("input_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),  # true where the token is a label
        ("num_label_tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)
LOSSES = pa.schema(
    [("example_id", pa.int64()), ("loss", pa.float32()), ("num_label_tokens", pa.int32())]
)


@dataclass(frozen=True)
class Part:
    """One committed or committable file of a stage."""

    unit: str
    file: str
    rows: int
    bytes: int
    checksum: str
    stats: dict[str, Any] = field(default_factory=dict)  # the unit's own account of itself (JSON)


@dataclass(frozen=True)
class Manifest:
    """What a finished stage holds. `info` is the stage's own account of itself (JSON)."""

    folder: str  # below the run directory
    fingerprint: str
    parts: list[Part]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


class Store:
    """A run directory. Cheap to pickle: holds the URI alone and opens the filesystem on use."""

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        self.uri = text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())
        self._open: tuple[pafs.FileSystem, str] | None = None

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.uri,)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._opened()[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *names: str) -> str:
        """The path of something below the run directory, as `filesystem` wants it."""
        return "/".join([self._opened()[1], *names])

    def address(self, *names: str) -> str:
        """The same for a person: a local path or a URI."""
        base, mark, query = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return "/".join([base.rstrip("/"), *names]) + mark + query

    def exists(self, *names: str) -> bool:
        return self.filesystem.get_file_info(self.path(*names)).type != pafs.FileType.NotFound

    def names(self, *folder: str) -> list[str]:
        """Names of the files and folders directly in a folder, sorted; none if it is not there."""
        selector = pafs.FileSelector(self.path(*folder), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def read_bytes(self, *names: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(*names)) as stream:
            return stream.read()

    def write_bytes(self, data: bytes, *names: str) -> None:
        """Write a whole file; a reader sees the old one or the new one, never half of one."""
        path = self.path(*names)
        if not self.is_local:
            with self.filesystem.open_output_stream(path) as stream:  # an object appears on close
                stream.write(data)
            size = self.filesystem.get_file_info(path).size
            if size != len(data):  # some stores keep less than they were given, without a word
                raise OSError(f"{self.address(*names)}: {len(data)} bytes written, {size} there")
            return
        temporary = _temporary_beside(path)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def read_json(self, *names: str) -> Any:
        return json.loads(self.read_bytes(*names))

    def write_json(self, value: Any, *names: str) -> None:
        self.write_bytes(json.dumps(value, indent=1, ensure_ascii=False).encode(), *names)

    # -- parts and manifests

    def write_part(
        self,
        table: pa.Table,
        folder: str,
        unit: str,
        *,
        suffix: str = "arrow",
        stats: dict[str, Any] | None = None,
    ) -> Part:
        """Write one part of a stage, `<unit>-<checksum>.<suffix>` (arrow or parquet).

        The stats go into the file's metadata too, so that a restart finds them with the part.
        """
        stats = stats or {}
        table = table.replace_schema_metadata({"stats": json.dumps(stats, sort_keys=True)})
        sink = io.BytesIO()
        if suffix == "parquet":
            pq.write_table(table, sink, compression="zstd")
        else:
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            with pa.ipc.new_file(sink, table.schema, options=options) as writer:
                writer.write_table(table)
        data = sink.getvalue()
        checksum = _checksum(data)
        name = f"{unit}-{checksum}.{suffix}"
        self.write_bytes(data, folder, name)
        return Part(unit, name, table.num_rows, len(data), checksum, stats)

    def read_part(self, folder: str, part: Part, columns: list[str] | None = None) -> pa.Table:
        """Read a part whole; ValueError if it is not the file that the manifest lists."""
        try:
            data = self.read_bytes(folder, part.file)
        except FileNotFoundError:
            hint = "; a local run directory must be seen by every node" if self.is_local else ""
            raise ValueError(
                f"{self.address(folder, part.file)}: not there, but the manifest lists it{hint}"
            ) from None
        if len(data) != part.bytes or _checksum(data) != part.checksum:
            raise ValueError(
                f"{self.address(folder, part.file)}: damaged: {len(data)} bytes with checksum "
                f"{_checksum(data)}, the manifest lists {part.bytes} with {part.checksum}"
            )
        return _parse(data, part.file, columns)

    def found_parts(self, folder: str) -> dict[str, Part]:
        """Whole parts that an earlier, unfinished run left in a folder or below it, by unit."""
        parts = {}
        root = self.path(folder)
        selector = pafs.FileSelector(root, allow_not_found=True, recursive=True)
        for found in sorted(self.filesystem.get_file_info(selector), key=lambda info: info.path):
            name = found.path[len(root) + 1 :]
            match = re.fullmatch(r"(.+)-([0-9a-f]{16})\.(arrow|parquet)", name)
            if not match:
                continue
            data = self.read_bytes(folder, name)
            if _checksum(data) == match[2]:
                table = _parse(data, name, None)
                stats = json.loads((table.schema.metadata or {}).get(b"stats", b"{}"))
                part = Part(match[1], name, table.num_rows, len(data), match[2], stats)
                parts[match[1]] = part
        return parts

    def manifest(self, folder: str) -> Manifest | None:
        """The manifest of a finished stage, or None while it is unfinished."""
        if not self.exists(folder, "manifest.json"):
            return None
        address = self.address(folder, "manifest.json")
        try:
            data = self.read_json(folder, "manifest.json")
            if data["format"] > FORMAT:
                raise ValueError(
                    f"{address}: format {data['format']} is newer than the format {FORMAT} that "
                    f"this version of s2l_ray reads"
                )
            parts = [Part(**part) for part in data["parts"]]
            return Manifest(folder, data["fingerprint"], parts, data["info"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{address}: damaged: not a manifest ({error!r})") from None

    def commit(
        self, folder: str, fingerprint: str, parts: Iterable[Part], info: dict[str, Any]
    ) -> Manifest:
        """Finish a stage: create its manifest. The first to commit wins; its manifest is returned.

        Parts are listed by unit; a unit listed twice is a bug.
        """
        ordered = sorted(parts, key=lambda part: part.unit)
        assert len({part.unit for part in ordered}) == len(ordered), "a unit committed twice"
        manifest = Manifest(folder, fingerprint, ordered, info)
        data = {"format": FORMAT, "stage": folder.split("/")[0]} | asdict(manifest)
        del data["folder"]
        self._create(json.dumps(data, indent=1, ensure_ascii=False).encode(), folder)
        committed = self.manifest(folder)
        assert committed is not None
        return committed

    def _create(self, data: bytes, folder: str) -> None:
        path = self.path(folder, "manifest.json")
        if not self.is_local:
            if not self.exists(folder, "manifest.json"):
                self.write_bytes(data, folder, "manifest.json")
            return
        temporary = _temporary_beside(path)
        Path(temporary).write_bytes(data)
        try:
            os.link(temporary, path)  # fails if it exists: created once, whole
        except FileExistsError:
            return
        finally:
            os.unlink(temporary)

    # -- folders in Hugging Face format

    def upload(
        self, local: str | Path, *folder: str, last: str = "config.json"
    ) -> list[dict[str, Any]]:
        """Copy a flat local folder into the run directory; the file named `last` goes last.

        Returns file, bytes and checksum of each, as a Part lists them.
        """
        copied = []
        files = sorted(p for p in Path(local).iterdir() if p.is_file())
        for file in sorted(files, key=lambda p: p.name == last):
            if self.is_local:
                target = self.path(*folder, file.name)
                temporary = _temporary_beside(target)
                shutil.copyfile(file, temporary)
                os.replace(temporary, target)
            else:
                pafs.copy_files(
                    str(file), self.path(*folder, file.name), destination_filesystem=self.filesystem
                )
            with open(file, "rb") as stream:
                digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8))
            copied.append(
                {
                    "file": file.name,
                    "bytes": file.stat().st_size,
                    "checksum": digest.hexdigest(),
                }
            )
        return copied

    def download(self, *folder: str) -> str:
        """A local folder with the files of a folder of the run: itself, or a copy on this node."""
        if self.is_local:
            return self.path(*folder)
        # Known by its files too: a run made anew at the same address is not served the old copy.
        files = self.filesystem.get_file_info(pafs.FileSelector(self.path(*folder)))
        known = [self.address(*folder), sorted((f.base_name, f.size, f.mtime_ns) for f in files)]
        name = hashlib.blake2b(json.dumps(known).encode(), digest_size=8).hexdigest()
        local = Path(tempfile.gettempdir(), f"s2l_ray-{os.getuid()}", name)
        if not local.exists():
            local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = tempfile.mkdtemp(dir=local.parent)
            pafs.copy_files(self.path(*folder), fresh, source_filesystem=self.filesystem)
            try:
                os.rename(fresh, local)
            except OSError:  # another process of this node was first
                shutil.rmtree(fresh)
        return str(local)

    def remove(self, *folder: str) -> None:
        if self.exists(*folder):
            self.filesystem.delete_dir(self.path(*folder))

    def _opened(self) -> tuple[pafs.FileSystem, str]:
        if self._open is None:
            if "://" in self.uri:
                self._open = pafs.FileSystem.from_uri(self.uri)
            else:
                self._open = pafs.LocalFileSystem(), self.uri
        return self._open


def _parse(data: bytes, name: str, columns: list[str] | None) -> pa.Table:
    if name.endswith(".parquet"):
        return pq.read_table(pa.BufferReader(data), columns=columns)
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    return table.select(columns) if columns else table


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _temporary_beside(path: str) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
