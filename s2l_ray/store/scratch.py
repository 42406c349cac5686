"""A node's temporary folder: copies of models, one for all processes of the node, and folders that
a process works in. What a killed process leaves there goes when the next one comes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEPT = 1800  # seconds that a node keeps its copy of a model after it was last asked for


@contextmanager
def working_folder() -> Iterator[str]:
    """An empty folder of this process alone, removed at the end."""
    _drop_abandoned()
    folder = _place() / f"work-{uuid.uuid4().hex}"
    lock, young = folder.with_suffix(".lock"), folder.with_suffix(".young")
    with _locked(young):  # as long as the process lives
        try:
            os.rename(young, lock)  # locked before others see it
            folder.mkdir()
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def copy_of(mark: str, fetch: Callable[[str], None]) -> str:
    """The node's copy of the files that `mark` stands for: one that is there, or else what
    `fetch(folder)` puts into a folder, in one process, while others wait for it."""
    local = _place() / mark
    with _locked(_place() / f"{mark}.lock"):
        try:
            os.utime(local)  # asked for just now
        except FileNotFoundError:
            _drop_old()
            with working_folder() as fresh:
                fetch(fresh)
                os.rename(fresh, local)
    return str(local)


def discard(local: str) -> None:
    """Remove a copy at once: nobody is served what is left of it, should this process be killed."""
    with suppress(FileNotFoundError), working_folder() as gone:  # another process may be first
        os.rename(local, Path(gone, "copy"))


def _place() -> Path:
    found = Path(tempfile.gettempdir(), f"s2l_ray-{os.getuid()}")
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


@contextmanager
def _locked(file: Path, how: int = 0) -> Iterator[None]:
    with open(file, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | how)
        yield


def _drop_abandoned() -> None:
    """Remove the working folders of processes that are gone."""
    for lock in _place().glob("work-*.lock"):
        with suppress(OSError), open(lock) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its process lives
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


def _drop_old() -> None:
    """Remove copies that nobody has asked for in a while."""
    for copy in _place().iterdir():
        if copy.is_dir() and not copy.name.startswith("work-"):
            # Refused while another process asks for it.
            with suppress(OSError), _locked(copy.with_suffix(".lock"), fcntl.LOCK_NB):
                times = [path.stat().st_mtime for path in (copy, *copy.iterdir())]
                if max(times) < time.time() - KEPT:
                    discard(str(copy))
