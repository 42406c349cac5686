"""A run directory, local or on S3: part files, manifests, folders, atomic commit.

A stage's folder (such as `losses/3f2a…`) has part files, named by their unit and a checksum of
their content. Its `manifest.json` is created once, last, and lists exactly one file per unit; other
files are ignored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from s2l_ray.config import StorageConfig
from s2l_ray.errors import Damaged
from s2l_ray.store import scratch, tables
from s2l_ray.store.checksums import checksum_of, checksum_of_file
from s2l_ray.store.folders import local_folder
from s2l_ray.store.manifest import FORMAT, Manifest, Part, manifest_of
from s2l_ray.store.objects import Guard, LocalObjects
from s2l_ray.store.owner import check_owner

if TYPE_CHECKING:
    from s2l_ray.store.s3 import S3Objects


class Store:
    """A run directory. Cheap to pickle: it is opened on first use.

    epoch: the number of the lease (lease.py) that lets this process, or its driver, write. None if
    nobody else can be using the run directory. owner: whose lease it is.
    """

    def __init__(
        self, uri: str | Path, config: StorageConfig | None = None, epoch: int | None = None,
        owner: str | None = None,
    ) -> None:  # fmt: skip
        text = str(uri)
        self.uri = text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())
        self.config = config or StorageConfig()
        self.epoch, self.owner = epoch, owner
        self._open: LocalObjects | S3Objects | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.uri, self.config, self.epoch, self.owner)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def objects(self) -> LocalObjects | S3Objects:
        if self._open is None:
            if self.uri.startswith("s3://"):
                from s2l_ray.store.s3 import S3Objects  # boto3, which a local run does without

                self._open = S3Objects(self.uri, self.config)
            else:
                self._open = LocalObjects(self.uri)
        return self._open

    @property
    def is_local(self) -> bool:
        return isinstance(self.objects, LocalObjects)

    def address(self, *names: str) -> str:
        """Return the local path or URI of something below the run directory."""
        return "/".join([self.uri, *names])

    def exists(self, *names: str) -> bool:
        return self.objects.exists("/".join(names))

    def names(self, *folder: str) -> list[str]:
        """List files and folders directly in a folder, sorted; nothing if it is missing."""
        return self.objects.names("/".join(folder))

    def read_bytes(self, *names: str) -> bytes:
        return self.objects.read("/".join(names))

    def write_bytes(self, data: bytes, *names: str) -> None:
        """Write a file as its owner (`guard`), atomically: readers see the old or the new one."""
        self.objects.write("/".join(names), data, self._guard)

    def read_json(self, *names: str) -> Any:
        """Read a JSON file; ValueError names it if it is not JSON."""
        try:
            return json.loads(self.read_bytes(*names))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.address(*names)}: damaged: not JSON ({error})") from None

    def write_json(self, value: Any, *names: str) -> None:
        self.write_bytes(json.dumps(value, indent=1, ensure_ascii=False).encode(), *names)

    def put_file(self, local: str | Path, *names: str) -> None:
        self.objects.put_file(Path(local), "/".join(names), self._guard)

    def remove(self, *names: str) -> None:
        self.objects.remove("/".join(names), self._guard)

    def guard(self) -> None:
        """Raise LeaseLost if another run has taken over the run directory, or could have."""
        if self.epoch is not None:
            check_owner(self)

    @property
    def _guard(self) -> Guard | None:
        return None if self.epoch is None else self.guard

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
        """Write one part of a stage, `<unit>-<checksum>.<suffix>` (see tables.py).

        The stats also go into the file, so that a restart finds them with the part. A text file
        has none.
        """
        stats = stats or {}
        data = tables.encode(table, suffix, stats)
        checksum = checksum_of(data)
        name = f"{unit}-{checksum}.{suffix}"
        self.objects.write(f"{folder}/{name}", data)  # no guard: the name says what is in it
        return Part(unit, name, table.num_rows, len(data), checksum, stats)

    def read_part(self, folder: str, part: Part, columns: list[str] | None = None) -> pa.Table:
        """Read a part; raise Damaged if it is not the file that the manifest lists."""
        try:
            data = self.read_bytes(folder, part.file)
        except FileNotFoundError:
            hint = "; every node must see a local run directory" if self.is_local else ""
            raise Damaged(
                f"{self.address(folder, part.file)}: missing, but the manifest lists it{hint}",
                folder,
            ) from None
        if len(data) != part.bytes or checksum_of(data) != part.checksum:
            raise Damaged(
                f"{self.address(folder, part.file)}: damaged: expected {part.bytes} bytes with "
                f"checksum {part.checksum}, got {len(data)} with {checksum_of(data)}",
                folder,
            )
        return tables.decode(data, part.file, columns)

    def found(self, folder: str) -> dict[str, str]:
        """Find part files that an unfinished run left in or below a folder: unit -> name."""
        names = self.objects.sizes(folder)
        return {unit: name for name in names if (unit := part_unit(name)) is not None}

    def found_part(self, folder: str, name: str) -> Part | None:
        """Return the part in a file of that name, or None if the file is damaged."""
        unit, checksum = name.rsplit(".", 1)[0].rsplit("-", 1)
        try:
            data = self.read_bytes(folder, name)
        except FileNotFoundError:
            return None
        if checksum_of(data) != checksum:
            return None
        table = tables.decode(data, name)
        return Part(unit, name, table.num_rows, len(data), checksum, tables.stats_of(table))

    def manifest(self, folder: str) -> Manifest | None:
        """Return the manifest of a finished stage, or None if the stage is unfinished."""
        if not self.exists(folder, "manifest.json"):
            return None
        address = self.address(folder, "manifest.json")
        data = self.read_json(folder, "manifest.json")
        try:
            newer = data["format"] > FORMAT
            manifest = None if newer else manifest_of(folder, data)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{address}: damaged: not a manifest ({error!r})") from None
        if newer:
            raise ValueError(
                f"{address}: format {data['format']} is newer than {FORMAT}, the newest that this "
                f"version of s2l_ray reads"
            )
        return manifest

    def commit(
        self, folder: str, fingerprint: str, parts: Iterable[Part], info: dict[str, Any]
    ) -> Manifest:
        """Finish a stage: create its manifest. Return the manifest of the first to commit.

        Each unit must have exactly one part. A manifest of a former owner that lists files which
        this one has replaced is set aside.
        """
        ordered = sorted(parts, key=lambda part: part.unit)
        assert len({part.unit for part in ordered}) == len(ordered), "a unit committed twice"
        manifest = Manifest(folder, fingerprint, ordered, info)
        data = {"format": FORMAT, "stage": folder.split("/")[0]} | asdict(manifest)
        del data["folder"]
        data["checksum"] = checksum_of(json.dumps(data).encode())
        if fault := self.fault(manifest):  # some stores silently truncate
            raise OSError(fault)
        text = json.dumps(data, indent=1, ensure_ascii=False).encode()
        while not self.objects.create(f"{folder}/manifest.json", text, self._guard):
            first = self.manifest(folder)
            mine = {part.file: part.checksum for part in ordered}
            if first and all(mine.get(p.file, p.checksum) == p.checksum for p in first.parts):
                break
            if first:
                self.set_aside(folder)
        committed = self.manifest(folder)
        assert committed is not None
        return committed

    def fault(self, manifest: Manifest) -> str | None:
        """Say which file of a finished stage is missing or of the wrong size. Reads no file."""
        sizes = self.objects.sizes(manifest.folder)
        for part in manifest.parts:
            size = sizes.get(part.file)
            if size != part.bytes:
                found = "missing" if size is None else f"{size} bytes"
                address = self.address(manifest.folder, part.file)
                return f"{address}: {found}, the manifest lists {part.bytes} bytes"
        return None

    def set_aside(self, folder: str) -> None:
        """Make a stage unfinished again: rename its manifest, keep its files."""
        data = self.read_bytes(folder, "manifest.json")
        self.write_bytes(data, folder, f"manifest-damaged-{checksum_of(data)}.json")
        self.remove(folder, "manifest.json")

    # -- folders in Hugging Face format

    def upload(
        self,
        local: str | Path,
        *folder: str,
        last: str = "config.json",
        matching: Iterable[str] = ("*",),
    ) -> list[Part]:
        """Copy the files of a local folder that match a pattern into the run directory, the file
        named `last` last. Folders in it are left out."""
        copied = []
        found = {file for pattern in matching for file in Path(local).glob(pattern)}
        files = sorted(file for file in found if file.is_file())
        for file in sorted(files, key=lambda p: p.name == last):
            self.put_file(file, *folder, file.name)
            copied.append(
                Part(file.name, file.name, 0, file.stat().st_size, checksum_of_file(file))
            )
        return copied

    def download(
        self, *folder: str, files: dict[str, Part] | None = None, stage: str | None = None
    ) -> str:
        """Return a local folder with a folder's files: the folder itself, or this node's copy.

        An absolute local path is returned as it is.

        files: those to take, by name, with their checksums. Default: all files, of which those that
        the folder's own manifest lists are verified, or that of the folder above. Each node
        verifies a file once; Damaged, with the stage's folder, if it differs from its checksum.
        """
        name = "/".join(folder)
        if os.path.isabs(name):
            return name
        if files is None:
            stage, listed = self._listed(name)
            sizes = self.objects.sizes(name)
        else:
            listed, sizes = files, {file: part.bytes for file, part in files.items()}
        return local_folder(
            self.objects, self.address(name), name, sizes, listed,
            stage=stage or name, epoch=self.epoch,
        )  # fmt: skip

    def _listed(self, name: str) -> tuple[str, dict[str, Part]]:
        """Return the stage that a folder belongs to, and its files in the stage's manifest."""
        stage, below = name, ""
        manifest = self.manifest(stage)
        if manifest is None and "/" in name:
            stage, _, leaf = name.rpartition("/")
            manifest, below = self.manifest(stage), f"{leaf}/"
        parts = manifest.parts if manifest else []
        return stage, {p.file.removeprefix(below): p for p in parts if p.file.startswith(below)}

    def discard(self, local: str) -> None:
        """Remove a copy that `download` made on this node, never the run's own folder."""
        if not self.is_local:
            scratch.discard(local)


def part_unit(name: str) -> str | None:
    """Return the unit that a file's name says it is the part of; None if it is no part."""
    match = re.fullmatch(r"(.+)-[0-9a-f]{16}\.(?:arrow|parquet|jsonl)", name)
    return match[1] if match else None
