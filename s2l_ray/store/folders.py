"""Copies of a run's folders on a node: fetched once and verified once for all its processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.errors import Damaged
from s2l_ray.store import scratch
from s2l_ray.store.checksums import checksum_of, checksum_of_file
from s2l_ray.store.manifest import Part
from s2l_ray.store.objects import LocalObjects

if TYPE_CHECKING:
    from s2l_ray.store.s3 import S3Objects

Listed = dict[str, Part]  # a manifest's files, by their name in the folder


def local_folder(
    objects: LocalObjects | S3Objects,
    address: str,
    name: str,
    sizes: dict[str, int],
    listed: Listed,
    *,
    stage: str,
    epoch: int | None,
) -> str:
    """Return a local folder with the files `sizes` of the folder `name`.

    It is the folder itself, or this node's copy. Raises Damaged for `stage` if a listed file is not
    as listed.
    """
    # The files are part of the key: a new run at the same address must not get the old copy.
    known: list[Any] = [address, epoch, sizes, [part.checksum for part in listed.values()]]

    def fetch(local: str) -> None:
        for file in sizes:
            objects.get_file(f"{name}/{file}", Path(local, file))
        _verify(Path(local), listed, address, stage)

    if not isinstance(objects, LocalObjects):
        return scratch.copy_of(_key(known), fetch)
    local = objects.root / name
    if listed:
        files = [local / file for file in listed if (local / file).exists()]
        known.append([file.stat().st_mtime_ns for file in files])
        # An empty folder in place of a copy: what it stands for is verified.
        scratch.copy_of(_key(known), lambda _: _verify(local, listed, address, stage))
    return str(local)


def _key(known: list[Any]) -> str:
    return checksum_of(json.dumps(known).encode())


def _verify(local: Path, listed: Listed, address: str, stage: str) -> None:
    for file, part in listed.items():
        if not (local / file).exists():
            raise Damaged(f"{address}/{file}: missing, but the manifest lists it", stage)
        if (found := checksum_of_file(local / file)) != part.checksum:
            raise Damaged(
                f"{address}/{file}: damaged: expected checksum {part.checksum}, got {found}", stage
            )
