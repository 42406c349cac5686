"""Content that is not what its file's name says, known by its first bytes."""

from __future__ import annotations

from s2l_ray.corpus.rows import BadRow

MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "bz2": b"BZh", "xz": b"\xfd7zXZ\0"}

ADVICE = {  # category: first bytes, what to do
    "Git LFS pointer": ((b"version https://git-lfs",), "not the file itself; run 'git lfs pull'"),
    "HTML page": ((b"<!doctype", b"<html"), "perhaps an error page; download the file again"),
    "UTF-16 text": ((b"\xff\xfe", b"\xfe\xff"), "expected UTF-8; convert the file"),
    "Parquet data": ((b"PAR1",), "let its name end in .parquet"),
    "Arrow data": ((b"ARROW1",), "let its name end in .arrow"),
    "zip archive": ((b"PK\x03\x04",), "extract it"),
    **{
        f"{name} data": ((magic,), f"let its name end in {ending}")
        for (name, magic), ending in zip(MAGIC.items(), (".gz", ".zst", ".bz2", ".xz"), strict=True)
    },
}


def foreign(head: bytes) -> BadRow | None:
    """Return what the first bytes of a file belong to, if that is no text with rows."""
    head = head.lstrip().lower()
    for category, (starts, advice) in ADVICE.items():
        if head.startswith(tuple(start.lower() for start in starts)):
            return BadRow(category, advice)
    return None
