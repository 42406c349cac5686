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
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.config import StorageConfig
from s2l_ray.errors import Damaged, LeaseLost
from s2l_ray.store import scratch
from s2l_ray.store.checksums import checksum_of, checksum_of_file
from s2l_ray.store.manifest import FORMAT, Manifest, Part, manifest_of
from s2l_ray.store.objects import LocalObjects
from s2l_ray.store.s3 import S3Objects


class Store:
    """A run directory. Cheap to pickle: holds how to open it, and opens it on use.

    epoch: the number of the lease (lease.py) under which this process, or its driver, may commit;
    None where nobody else can be at work.
    """

    def __init__(
        self, uri: str | Path, config: StorageConfig | None = None, epoch: int | None = None
    ) -> None:
        text = str(uri)
        self.uri = text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())
        self.config = config or StorageConfig()
        self.epoch = epoch
        self._open: LocalObjects | S3Objects | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.uri, self.config, self.epoch)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def objects(self) -> LocalObjects | S3Objects:
        if self._open is None:
            remote = self.uri.startswith("s3://")
            self._open = S3Objects(self.uri, self.config) if remote else LocalObjects(self.uri)
        return self._open

    @property
    def is_local(self) -> bool:
        return isinstance(self.objects, LocalObjects)

    def address(self, *names: str) -> str:
        """Of something below the run directory: a local path or a URI."""
        return "/".join([self.uri, *names])

    def exists(self, *names: str) -> bool:
        return self.objects.exists("/".join(names))

    def names(self, *folder: str) -> list[str]:
        """Names of the files and folders directly in a folder, sorted; none if it is not there."""
        return self.objects.names("/".join(folder))

    def read_bytes(self, *names: str) -> bytes:
        return self.objects.read("/".join(names))

    def write_bytes(self, data: bytes, *names: str) -> None:
        """Write a whole file; a reader sees the old one or the new one, never half of one."""
        self.objects.write("/".join(names), data)

    def read_json(self, *names: str) -> Any:
        """ValueError names a file that is not JSON."""
        try:
            return json.loads(self.read_bytes(*names))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.address(*names)}: damaged: not JSON ({error})") from None

    def write_json(self, value: Any, *names: str) -> None:
        self.write_bytes(json.dumps(value, indent=1, ensure_ascii=False).encode(), *names)

    def remove(self, *names: str) -> None:
        self.objects.remove("/".join(names))

    def guard(self) -> None:
        """Raise LeaseLost if the run directory has a newer owner than this process's run."""
        if self.epoch is None:
            return
        newest = max(map(lease_number, self.names("lease")), default=0)
        if newest > self.epoch:
            owner = self.read_json("lease", lease_name(newest))
            raise LeaseLost(
                f"{self.uri}: taken over by {owner['host']} (job {owner['job']}, process "
                f"{owner['pid']}) since {owner['since']}: this run had not renewed its lease; it "
                f"stops here and commits nothing more"
            )

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
        checksum = checksum_of(data)
        name = f"{unit}-{checksum}.{suffix}"
        self.write_bytes(data, folder, name)
        return Part(unit, name, table.num_rows, len(data), checksum, stats)

    def read_part(self, folder: str, part: Part, columns: list[str] | None = None) -> pa.Table:
        """Read a part whole; Damaged if it is not the file that the manifest lists."""
        try:
            data = self.read_bytes(folder, part.file)
        except FileNotFoundError:
            hint = "; a local run directory must be seen by every node" if self.is_local else ""
            raise Damaged(
                f"{self.address(folder, part.file)}: not there, but the manifest lists it{hint}",
                folder,
            ) from None
        if len(data) != part.bytes or checksum_of(data) != part.checksum:
            raise Damaged(
                f"{self.address(folder, part.file)}: damaged: {len(data)} bytes with checksum "
                f"{checksum_of(data)}, the manifest lists {part.bytes} with {part.checksum}",
                folder,
            )
        return _parse(data, part.file, columns)

    def found(self, folder: str) -> dict[str, str]:
        """Names of part files that an unfinished run left in a folder or below it, by unit."""
        matches = (
            re.fullmatch(r"(.+)-[0-9a-f]{16}\.(?:arrow|parquet)", name)
            for name in self.objects.sizes(folder)
        )
        return {match[1]: match[0] for match in matches if match}

    def found_part(self, folder: str, name: str) -> Part | None:
        """The part in a file of that name, or None if it is not whole."""
        unit, checksum = name.rsplit(".", 1)[0].rsplit("-", 1)
        try:
            data = self.read_bytes(folder, name)
        except FileNotFoundError:
            return None
        if checksum_of(data) != checksum:
            return None
        table = _parse(data, name, None)
        stats = json.loads((table.schema.metadata or {}).get(b"stats", b"{}"))
        return Part(unit, name, table.num_rows, len(data), checksum, stats)

    def manifest(self, folder: str) -> Manifest | None:
        """The manifest of a finished stage, or None while it is unfinished."""
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
                f"{address}: format {data['format']} is newer than the format {FORMAT} that "
                f"this version of s2l_ray reads"
            )
        return manifest

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
        data["checksum"] = checksum_of(json.dumps(data).encode())
        if fault := self.fault(manifest):  # some stores keep less than they were given
            raise OSError(fault)
        self.guard()
        text = json.dumps(data, indent=1, ensure_ascii=False)
        self.objects.create(f"{folder}/manifest.json", text.encode())
        committed = self.manifest(folder)
        assert committed is not None
        return committed

    def fault(self, manifest: Manifest) -> str | None:
        """What is missing from a finished stage or not of its size, or None. Reads no file."""
        sizes = self.objects.sizes(manifest.folder)
        for part in manifest.parts:
            size = sizes.get(part.file)
            if size != part.bytes:
                found = "not there" if size is None else f"{size} bytes"
                address = self.address(manifest.folder, part.file)
                return f"{address}: {found}, the manifest lists {part.bytes} bytes"
        return None

    def set_aside(self, folder: str) -> None:
        """Make a stage unfinished again: its manifest gets another name, its files stay."""
        self.guard()
        data = self.read_bytes(folder, "manifest.json")
        self.write_bytes(data, folder, f"manifest-damaged-{checksum_of(data)}.json")
        self.remove(folder, "manifest.json")

    # -- folders in Hugging Face format

    def upload(self, local: str | Path, *folder: str, last: str = "config.json") -> list[Part]:
        """Copy a flat local folder into the run directory; the file named `last` goes last."""
        copied = []
        files = sorted(p for p in Path(local).iterdir() if p.is_file())
        for file in sorted(files, key=lambda p: p.name == last):
            self.objects.put_file(file, "/".join([*folder, file.name]))
            copied.append(
                Part(file.name, file.name, 0, file.stat().st_size, checksum_of_file(file))
            )
        return copied

    def download(self, *folder: str) -> str:
        """A local folder with the files of a folder of the run: itself, or a copy on this node.

        Files that its own manifest lists, or else that of the folder above, are held against it:
        Damaged if one differs. An absolute local path is returned as it is.
        """
        name = "/".join(folder)
        if os.path.isabs(name):
            return name
        stage, below = name, ""
        manifest = self.manifest(stage)
        if manifest is None and "/" in name:
            stage, _, leaf = name.rpartition("/")
            manifest, below = self.manifest(stage), f"{leaf}/"
        listed = {
            part.file.removeprefix(below): part
            for part in (manifest.parts if manifest else [])
            if part.file.startswith(below)
        }
        sizes = self.objects.sizes(name)
        if isinstance(self.objects, LocalObjects):
            local = self.objects.root / name
            self._hold_against(listed, local, stage)
            return str(local)
        # Known by its files too: a run made anew at the same address is not served the old copy.
        known = [self.address(name), self.epoch, sizes, [part.checksum for part in listed.values()]]
        mark = hashlib.blake2b(json.dumps(known).encode(), digest_size=8).hexdigest()

        def fetch(local: str) -> None:
            for file in sizes:
                self.objects.get_file(f"{name}/{file}", Path(local, file))
            self._hold_against(listed, Path(local), stage)

        return scratch.copy_of(mark, fetch)

    def discard(self, local: str) -> None:
        """Remove a copy that `download` made on this node; the run's own folder stays."""
        if not self.is_local:
            scratch.discard(local)

    def _hold_against(self, listed: dict[str, Part], local: Path, stage: str) -> None:
        for file, part in listed.items():
            address = self.address(stage, part.file)
            if not (local / file).exists():
                raise Damaged(f"{address}: not there, but the manifest lists it", stage)
            if (found := checksum_of_file(local / file)) != part.checksum:
                raise Damaged(
                    f"{address}: damaged: checksum {found}, the manifest lists {part.checksum}",
                    stage,
                )


def lease_name(number: int) -> str:
    return f"{number:08d}.json"


def lease_number(name: str) -> int:
    return int(name.removesuffix(".json")) if name.endswith(".json") else 0


def _parse(data: bytes, name: str, columns: list[str] | None) -> pa.Table:
    if name.endswith(".parquet"):
        return pq.read_table(pa.BufferReader(data), columns=columns)
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    return table.select(columns) if columns else table
