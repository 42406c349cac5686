"""A node's temporary folder: copies of models shared by its processes, and working folders.

The next process removes what a killed one left there. The folder must be this user's alone: whoever
else can write to it can replace weights.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEPT = 1800  # seconds that a node keeps its copy of a model after its last use


@contextmanager
def working_folder() -> Iterator[str]:
    """Make an empty folder for this process, and remove it at the end."""
    _drop_abandoned()
    folder = _place() / f"work-{uuid.uuid4().hex}"
    lock, young = folder.with_suffix(".lock"), folder.with_suffix(".young")
    with _locked(young):  # while the process is alive
        try:
            os.rename(young, lock)  # locked before others see it
            folder.mkdir()
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def copy_of(key: str, fetch: Callable[[str], None]) -> str:
    """Return the node's copy of the files that `key` identifies.

    If there is none, one process gets it by `fetch(folder)` while others wait.
    """
    local = _place() / key
    with _locked(_place() / f"{key}.lock"):
        try:
            os.utime(local)  # in use
        except FileNotFoundError:
            _drop_old()
            with working_folder() as fresh:
                fetch(fresh)
                os.rename(fresh, local)
    return str(local)


def discard(local: str) -> None:
    """Remove a copy atomically, so that nobody gets a part of it if this process is killed."""
    with suppress(FileNotFoundError), working_folder() as gone:  # another process may be faster
        os.rename(local, Path(gone, "copy"))


def _place() -> Path:
    found = Path(tempfile.gettempdir(), f"s2l_ray-{os.getuid()}")
    with suppress(FileExistsError):  # lstat says what is there
        found.mkdir(mode=0o700, parents=True)
    about = os.lstat(found)  # of a link, not of what it leads to
    what, mode = stat.filemode(about.st_mode), stat.S_IMODE(about.st_mode)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or mode & 0o077:
        raise ValueError(
            f"temporary folder {found}: expected a folder of the user {os.getuid()} with mode 0700 "
            f"(drwx------), got {what} of the user {about.st_uid}; others could replace files in "
            "it. Remove it, or set TMPDIR to a folder of your own"
        )
    return found


@contextmanager
def _locked(file: Path, how: int = 0) -> Iterator[None]:
    with open(file, "w", opener=_without_links) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | how)
        yield


def _without_links(path: str, flags: int) -> int:
    """Open a file; OSError for a link, which could make this process empty a file elsewhere."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _drop_abandoned() -> None:
    """Remove the working folders of processes that have ended."""
    for lock in _place().glob("work-*.lock"):
        with suppress(OSError), _locked(lock, fcntl.LOCK_NB):  # refused while its process is alive
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


def _drop_old() -> None:
    """Remove copies that have not been used for KEPT seconds."""
    for copy in _place().iterdir():
        if copy.is_dir() and not copy.name.startswith("work-"):
            # Refused while another process opens it.
            with suppress(OSError), _locked(copy.with_suffix(".lock"), fcntl.LOCK_NB):
                times = [path.stat().st_mtime for path in (copy, *copy.iterdir())]
                if max(times) < time.time() - KEPT:
                    discard(str(copy))
