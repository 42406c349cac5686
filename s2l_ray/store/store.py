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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from s2l_ray.config import StorageConfig
from s2l_ray.errors import Damaged
from s2l_ray.store import scratch, tables
from s2l_ray.store.checksums import checksum_of, checksum_of_file, is_whole, marked
from s2l_ray.store.folders import local_folder
from s2l_ray.store.manifest import FORMAT, Manifest, Part, manifest_of
from s2l_ray.store.objects import Guard, LocalObjects
from s2l_ray.store.owner import check_owner

if TYPE_CHECKING:
    from s2l_ray.store.s3 import S3Objects


DROPPED = "dropped.json"  # in a stage's folder: its files that were removed on purpose


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
        # Folders whose manifests this process has read or written through this object.
        self.met = set[str]()
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

    def read_bytes(self, *names: str, first: int | None = None) -> bytes:
        """Return what a file holds, or its first bytes."""
        return self.objects.read("/".join(names), first)

    def write_bytes(self, data: bytes, *names: str) -> None:
        """Write a file atomically: readers see the old content or the new. See `guard`."""
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

    def write_beside(self, data: bytes, folder: str, name: str) -> Part:
        """Write a file that is no part of a stage's table, for the `beside` of its commit."""
        self.write_bytes(data, folder, name)
        return Part(name, name, 0, len(data), checksum_of(data))

    def read_part(self, folder: str, part: Part, columns: list[str] | None = None) -> pa.Table:
        """Read a part; raise Damaged if it is not the file that the manifest lists."""
        return tables.decode(self.read_listed(folder, part), part.file, columns)

    def read_listed(self, folder: str, part: Part) -> bytes:
        """Read a file that a manifest lists; raise Damaged if it is not as listed."""
        folder = part.folder or folder
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
        return data

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
        """Return the manifest of a finished stage, or None if the stage is unfinished.

        Damaged, with the stage's folder, if the manifest is cut short, changed, or another stage's.
        ValueError if a newer version wrote it.
        """
        if not self.exists(folder, "manifest.json"):
            return None
        address = self.address(folder, "manifest.json")
        try:
            data = self.read_json(folder, "manifest.json")
        except ValueError as error:
            raise Damaged(str(error), folder) from None
        try:
            newer = data["format"] > FORMAT
            manifest = None if newer else manifest_of(folder, data)
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{address}: damaged: not a manifest ({error!r})", folder) from None
        if newer:
            raise ValueError(
                f"{address}: format {data['format']} is newer than {FORMAT}, the newest that this "
                f"version of s2l_ray reads"
            )
        self.met.add(folder)
        return manifest

    def commit(
        self,
        folder: str,
        fingerprint: str,
        parts: Iterable[Part],
        info: dict[str, Any],
        beside: Iterable[Part] = (),
    ) -> Manifest:
        """Finish a stage: create its manifest. Return the manifest of the first to commit.

        Each unit must have exactly one part. beside: see Manifest. A manifest of a former owner
        that lists files which this one has replaced is set aside.
        """
        ordered = sorted(parts, key=lambda part: part.unit)
        assert len({part.unit for part in ordered}) == len(ordered), "a unit committed twice"
        manifest = Manifest(folder, fingerprint, ordered, info, list(beside))
        if fault := self.fault(manifest):  # some stores silently truncate
            raise OSError(fault)
        text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False).encode()
        while not self.objects.create(f"{folder}/manifest.json", text, self._guard):
            first = self.manifest(folder)
            mine = {part.file: part.checksum for part in manifest.files}
            if first and all(mine.get(p.file, p.checksum) == p.checksum for p in first.files):
                break
            if first:
                self.set_aside(folder)
        committed = self.manifest(folder)
        assert committed is not None
        return committed

    def fault(self, manifest: Manifest) -> str | None:
        """Say which file of a finished stage is missing or of the wrong size. Reads no file, but
        for the list of those that were dropped on purpose."""
        folders = dict.fromkeys(part.folder or manifest.folder for part in manifest.files)
        sizes = {folder: self.objects.sizes(folder) for folder in [manifest.folder, *folders]}
        dropped = self.dropped(manifest.folder) if DROPPED in sizes[manifest.folder] else ()
        for part in manifest.files:
            folder = part.folder or manifest.folder
            size = sizes[folder].get(part.file)
            if size != part.bytes and part.file not in dropped:
                found = "missing" if size is None else f"{size} bytes"
                address = self.address(folder, part.file)
                return f"{address}: {found}, the manifest lists {part.bytes} bytes"
        return None

    def dropped(self, folder: str) -> set[str]:
        """Return the files that a finished stage can do without and that were removed. Empty if
        their list is damaged: they are missing then."""
        try:
            found = self.read_json(folder, DROPPED) if self.exists(folder, DROPPED) else {}
        except ValueError:
            return set()
        return {*found["files"]} if is_whole(found) else set()

    def drop(self, manifest: Manifest, files: Iterable[str]) -> None:
        """Remove files that a finished stage can do without; `fault` does not miss them."""
        gone = sorted({*files} | self.dropped(manifest.folder))
        self.write_json(marked({"files": gone}), manifest.folder, DROPPED)
        for file in gone:
            self.remove(manifest.folder, file)

    def set_aside(self, folder: str) -> None:
        """Make a stage unfinished again: rename its manifest, keep its files."""
        self.move_aside(folder, "manifest.json")

    def move_aside(self, *names: str) -> str:
        """Rename a damaged file, so that it can be written again; return its new name."""
        data = self.read_bytes(*names)
        stem, _, suffix = names[-1].rpartition(".")
        aside = f"{stem}-damaged-{checksum_of(data)}.{suffix}"
        self.write_bytes(data, *names[:-1], aside)
        self.remove(*names)
        return aside

    # -- folders in Hugging Face format

    def upload(
        self, local: str | Path, *folder: str, matching: Iterable[str] = ("*",)
    ) -> list[Part]:
        """Copy the files of a local folder that match a pattern into the run directory. Folders in
        it are left out."""
        copied = []
        found = {file for pattern in matching for file in Path(local).glob(pattern)}
        for file in sorted(file for file in found if file.is_file()):
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
        parts = manifest.files if manifest else []
        return stage, {p.file.removeprefix(below): p for p in parts if p.file.startswith(below)}

    def discard(self, local: str) -> None:
        """Remove a copy that `download` made on this node, never the run's own folder."""
        if not self.is_local:
            scratch.discard(local)


def part_unit(name: str) -> str | None:
    """Return the unit that a file's name says it is the part of; None if it is no part."""
    match = re.fullmatch(r"(.+)-[0-9a-f]{16}\.(?:arrow|parquet|jsonl)", name)
    return match[1] if match else None
