"""Checksums of bytes, files and folders, and JSON values with a checksum of their own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

KEY = "checksum"


def checksum_of_files(checksums: dict[str, str]) -> str:
    """Return the checksum of a folder, from those of its files by name."""
    return checksum_of(json.dumps(checksums, sort_keys=True).encode())


def checksum_of_folder(local: str | Path) -> str:
    """Return the checksum of a local folder, without half-written files of killed processes."""
    files = (path for path in Path(local).iterdir() if path.is_file())
    return checksum_of_files(
        {p.name: checksum_of_file(p) for p in files if not p.name.startswith(".")}
    )


def checksum_of_file(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def checksum_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def marked(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON value with the checksum of the rest, for a file that is written again and
    again, and that no manifest can list."""
    rest = {name: each for name, each in value.items() if name != KEY}
    return rest | {KEY: checksum_of(json.dumps(rest, sort_keys=True).encode())}


def is_whole(value: Any) -> bool:
    """Return whether a value that was read has the checksum that `marked` gave it."""
    return isinstance(value, dict) and value.get(KEY) == marked(value)[KEY]
