"""Whole objects by name in a local folder: the local kind of what a run directory is made of.

s3.py has the other kind. Both promise the same: a reader sees an object whole, old or new;
`create` makes one only where there is none. Names are relative, with slashes.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LocalObjects:
    """Files below a folder, which may be on a network drive."""

    conditional = True  # `create` is exact

    def __init__(self, root: str) -> None:
        self.root = Path(root).expanduser().absolute()

    def read(self, name: str) -> bytes:
        """FileNotFoundError if there is none."""
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with self._temporary(name) as temporary:
            _write(temporary, data)
            os.replace(temporary, self.root / name)

    def create(self, name: str, data: bytes) -> bool:
        """Whether the object is now this caller's; False if there was one already."""
        with self._temporary(name) as temporary:
            _write(temporary, data)
            try:
                os.link(temporary, self.root / name)  # fails if it exists: created once, whole
            except FileExistsError:
                return False
            except PermissionError as error:
                raise OSError(
                    f"{self.root}: its filesystem has no hard links ({error}); wanted one that "
                    "has, or s3://…"
                ) from error
        return True

    def put_file(self, local: Path, name: str) -> None:
        with self._temporary(name) as temporary:
            shutil.copyfile(local, temporary)
            _to_disk(temporary)
            os.replace(temporary, self.root / name)

    def get_file(self, name: str, local: Path) -> None:
        shutil.copyfile(self.root / name, local)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every object below a folder, by its name relative to the folder."""
        top, found = self.root / folder, {}
        for parent, _, files in os.walk(top):
            for file in files:
                path = Path(parent, file)
                try:
                    found[path.relative_to(top).as_posix()] = path.stat().st_size
                except FileNotFoundError:  # replaced or removed meanwhile
                    continue
        return dict(sorted(found.items()))

    def names(self, folder: str) -> list[str]:
        """Objects and folders directly in a folder, sorted; none if it is not there."""
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def age(self, name: str) -> float:
        """Seconds since the object was written, by the storage's own clock."""
        with self._temporary(name) as now:
            now.touch()
            return now.stat().st_mtime - (self.root / name).stat().st_mtime

    def remove(self, name: str) -> None:
        """An object, or a folder with all that is in it; nothing if it is not there."""
        path = self.root / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    _to_disk(file)


def _to_disk(file: Path) -> None:
    """Before its name is known: a power cut leaves it whole, or not there."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())
