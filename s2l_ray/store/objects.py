"""Whole objects by name in a local folder.

s3.py offers the same for a bucket. Both promise that a reader sees an object whole, old or new, and
that `create` never overwrites. Names are relative, with slashes.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LocalObjects:
    """Files below a folder, possibly on a network drive."""

    conditional = True  # `create` is exact

    def __init__(self, root: str) -> None:
        self.root = Path(root).expanduser().absolute()

    def read(self, name: str) -> bytes:
        """Raise FileNotFoundError if there is no such object."""
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with self._temporary(name) as temporary:
            _write(temporary, data)
            os.replace(temporary, self.root / name)

    def create(self, name: str, data: bytes) -> bool:
        """Create an object; return False if it already exists."""
        with self._temporary(name) as temporary:
            _write(temporary, data)
            try:
                os.link(temporary, self.root / name)  # fails if it exists: created once, whole
            except FileExistsError:
                return False
            except PermissionError as error:
                raise OSError(
                    f"{self.root}: expected a filesystem with hard links ({error}); use another "
                    "drive, or s3://…"
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
        """Return the bytes of every object below a folder, by relative name."""
        top, found = self.root / folder, {}
        for parent, _, files in os.walk(top):
            for file in files:
                path = Path(parent, file)
                try:
                    found[path.relative_to(top).as_posix()] = path.stat().st_size
                except FileNotFoundError:  # replaced or removed in the meantime
                    continue
        return dict(sorted(found.items()))

    def names(self, folder: str) -> list[str]:
        """List objects and folders directly in a folder, sorted; nothing if it is missing."""
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def age(self, name: str) -> float:
        """Return the seconds since the object was written, by the storage's own clock, or by this
        machine's if the folder can only be read."""
        written = (self.root / name).stat().st_mtime
        try:
            with self._temporary(name) as now:
                now.touch()
                return now.stat().st_mtime - written
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return time.time() - written

    def remove(self, name: str) -> None:
        """Remove an object, or a folder and its content, if it exists."""
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
    """Sync before the rename, so that after a power cut the file is whole or missing."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())
