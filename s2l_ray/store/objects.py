"""Whole objects by name in a local folder.

s3.py offers the same for a bucket. Both promise that a reader sees an object whole, old or new, and
that `create` never overwrites. Names are relative, with slashes.

What writes or removes takes a `guard`, a function that raises if this process may not do so any
more. However long the process is paused after the guard, what another process has written since
stays. In a folder a lock sees to it: it is held from the guard to the change, and whoever wants to
be `alone` waits for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Guard = Callable[[], None]
LOCK = "lease/.lock"
ABANDONED = 3600.0  # seconds since a write's last byte, after which its process is surely dead


class LocalObjects:
    """Files below a folder, possibly on a network drive. Where the drive has no locks, a guard is
    called directly before the change."""

    conditional = True  # `create` is exact

    def __init__(self, root: str) -> None:
        self.root = Path(root).expanduser().absolute()

    def read(self, name: str, first: int | None = None) -> bytes:
        """Return an object, or its first bytes. FileNotFoundError if there is none."""
        with open(self.root / name, "rb") as file:
            return file.read(first)

    def write(self, name: str, data: bytes, guard: Guard | None = None) -> None:
        with self._temporary(name) as temporary:
            _write(temporary, data)
            with self._guarded(guard):
                os.replace(temporary, self.root / name)

    def create(self, name: str, data: bytes, guard: Guard | None = None) -> bool:
        """Create an object; return False if it already exists."""
        with self._temporary(name) as temporary:
            _write(temporary, data)
            try:
                with self._guarded(guard):
                    os.link(temporary, self.root / name)  # fails if it exists: created once, whole
            except FileExistsError:
                return False
            except PermissionError as error:
                raise OSError(
                    f"{self.root}: expected a filesystem with hard links ({error}); use another "
                    "drive, or s3://…"
                ) from error
        return True

    def put_file(self, local: Path, name: str, guard: Guard | None = None) -> None:
        with self._temporary(name) as temporary:
            shutil.copyfile(local, temporary)
            _to_disk(temporary)
            with self._guarded(guard):
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

    def remove(self, name: str, guard: Guard | None = None) -> None:
        """Remove an object, or a folder and its content, if it exists."""
        path = self.root / name
        if path.is_symlink() or not path.is_dir():
            with self._guarded(guard):
                path.unlink(missing_ok=True)
        elif guard is None:
            shutil.rmtree(path, ignore_errors=True)
        else:
            for parent, _, files in os.walk(path, topdown=False):
                for file in files:  # each for itself: nobody waits long for the lock
                    with self._guarded(guard):
                        Path(parent, file).unlink(missing_ok=True)
                with suppress(OSError):  # another process writes there
                    os.rmdir(parent)

    @contextmanager
    def alone(self, seconds: float) -> Iterator[None]:
        """In the block, no process is between its guard and its change. ValueError if one is still
        after so many seconds: it must be stopped."""
        with self._locked(fcntl.LOCK_EX, seconds):
            yield

    @contextmanager
    def _guarded(self, guard: Guard | None) -> Iterator[None]:
        if guard is None:
            yield
            return
        with self._locked(fcntl.LOCK_SH):
            guard()
            yield

    @contextmanager
    def _locked(self, kind: int, seconds: float | None = None) -> Iterator[None]:
        path, alone = self.root / LOCK, kind == fcntl.LOCK_EX
        try:
            if alone:
                path.parent.mkdir(parents=True, exist_ok=True)
            # Network drives want a file that can be written for an exclusive lock.
            file = os.open(path, (os.O_RDWR if alone else os.O_RDONLY) | os.O_CREAT, 0o666)
        except OSError:  # the leases were removed, as the guard will find; or another user's file
            yield
            return
        try:
            end = time.monotonic() + (seconds or 0.0)
            while True:
                try:
                    fcntl.flock(file, kind if seconds is None else kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise ValueError(
                            f"run_dir: {self.root}: a process of another run is paused in the "
                            f"middle of a write, for {seconds:.0f} s so far; continue it (kill "
                            f"-CONT) or end it (kill -9), and start again"
                        ) from None
                    time.sleep(0.05)
                except OSError:  # this drive has no locks
                    break
            yield
        finally:
            os.close(file)

    def sweep(self, seconds: float) -> list[str]:
        """Remove the temporary files of killed writes that are older than this; return their
        names."""
        found = []
        for parent, _, files in os.walk(self.root):
            for file in files:
                if re.fullmatch(r"\..+\.[0-9a-f]{32}", file):
                    name = Path(parent, file).relative_to(self.root).as_posix()
                    with suppress(FileNotFoundError, PermissionError):  # done, or another user's
                        if self.age(name) > seconds:
                            self.remove(name)
                            found.append(name)
        return sorted(found)

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
