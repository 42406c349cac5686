"""What lies below a folder. Local links are followed once."""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath

import pyarrow.fs as pafs

MOST = 200_000  # files and folders; the driver keeps each
HIDDEN = "hidden: a name begins with . or _"


@dataclass(frozen=True)
class Entry:
    """A file or folder."""

    path: str  # on its filesystem
    is_file: bool
    size: int
    mtime_ns: int


@dataclass
class Listing:
    """Files and folders by their path below the folder, and why others are passed over."""

    entries: dict[str, Entry] = field(default_factory=dict)
    passed: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ValueError if there are too many."""
        if len(self.entries) + len(self.passed) > MOST:
            raise ValueError(
                f"expected at most {MOST:,} files and folders, found more; name fewer of them, or "
                "put the rows into fewer, larger files"
            )


def walk(filesystem: pafs.FileSystem, top: str, *, deep: bool) -> Listing:
    """List a folder of any filesystem. deep: also what is in its folders."""
    selector = pafs.FileSelector(top, allow_not_found=True, recursive=deep)
    found = Listing()
    for info in filesystem.get_file_info(selector):
        found.entries[info.path[len(top) + 1 :]] = entry_of(info)
    found.check()
    return found


def entry_of(info: pafs.FileInfo) -> Entry:
    is_file = info.type == pafs.FileType.File
    return Entry(info.path, is_file, info.size or 0, info.mtime_ns or 0)


def walk_local(top: str, *, deep: bool, hidden: bool) -> Listing:
    """List a local folder. Names that are not UTF-8 are as os.fsdecode gives them.

    hidden: also list what is hidden. A link is followed unless it leads to what is listed already,
    or to a folder that holds the link.
    """
    found, seen = Listing(), _Seen()
    folders, links = deque([""]), deque[str]()
    if os.path.isdir(top):
        seen.add_with_parents(top)
    while folders or links:
        if folders:
            prefix = folders.popleft()
            for item in _scan(os.path.join(top, prefix)):
                name = prefix + item.name
                if item.name.startswith(".") and not hidden:
                    found.passed[name] = HIDDEN
                elif item.is_symlink():
                    links.append(name)
                else:
                    seen.add(item.path)
                    _list(found, name, item.path, folders if deep else None)
            found.check()
        else:  # links, now that all else is known
            name = links.popleft()
            path = os.path.join(top, name)
            if fault := seen.again(path):
                found.passed[name] = fault
            else:
                if deep and os.path.isdir(path):
                    seen.add_with_parents(path)
                _list(found, name, path, folders if deep else None)
            found.check()
    return found


def _list(found: Listing, name: str, path: str, folders: deque[str] | None) -> None:
    """Add a file or folder to the listing, and a folder to those to look into."""
    about = os.stat(path)
    if stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode):
        is_file = stat.S_ISREG(about.st_mode)
        found.entries[name] = Entry(path, is_file, about.st_size, about.st_mtime_ns)
        if folders is not None and not is_file:
            folders.append(name + "/")
    else:
        found.passed[name] = "neither a file nor a folder"


class _Seen:
    """Files and folders that are listed, whatever their names."""

    def __init__(self) -> None:
        self.found: set[tuple[int, int]] = set()

    def add(self, path: str) -> None:
        about = os.stat(path)
        self.found.add((about.st_dev, about.st_ino))

    def add_with_parents(self, path: str) -> None:
        real = os.path.realpath(path)
        for folder in [real, *map(str, PurePosixPath(real).parents)]:
            self.add(folder)

    def again(self, link: str) -> str:
        """Return why a link is not followed, or "" and remember what it leads to."""
        try:
            about = os.stat(link)
        except OSError as error:
            return f"a broken link ({error.strerror})"
        key = (about.st_dev, about.st_ino)
        if key in self.found:
            return "a link to what is read already, or to a folder above"
        self.found.add(key)
        return ""


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return sorted(islice(items, MOST + 1), key=lambda item: item.name)
    except FileNotFoundError:
        return []
