"""How a file is read, by the ending of its name. Case does not matter."""

from __future__ import annotations

import os

ENDINGS = {
    ".jsonl": "jsonl",  # JSON lines
    ".ndjson": "jsonl",
    ".json": "json",  # JSON lines too, or a document: a list of rows, or an object that holds them
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",  # IPC, a file or a stream; Feather is the former
    ".feather": "arrow",
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz"}
TEXT = ("jsonl", "json", "csv", "tsv")  # formats that may be compressed as a whole
_TEXT = [ending for ending, kind in ENDINGS.items() if kind in TEXT]
_BINARY = [ending for ending in ENDINGS if ending not in _TEXT]
LEGEND = (
    f"{', '.join(_BINARY)}, or {', '.join(_TEXT)} (these also with {', '.join(COMPRESSIONS)} after)"
)


def compression_of(name: str) -> str | None:
    """Return how a file of this name is compressed."""
    return COMPRESSIONS.get(os.path.splitext(name)[1].lower())


def format_of(name: str, format: str) -> str | None:
    """Return how a file of this name is read, or None if it is not read.

    format: corpus.format, which names the only format to read unless it is "auto".
    """
    plain, ending = os.path.splitext(name)
    compressed = ending.lower() in COMPRESSIONS
    kind = ENDINGS.get(os.path.splitext(plain if compressed else name)[1].lower())
    if kind == "json" and format == "jsonl":
        kind = "jsonl"
    if compressed and kind not in TEXT:
        return None
    return kind if format in ("auto", kind) else None
