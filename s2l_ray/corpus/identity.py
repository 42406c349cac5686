"""Ids of examples, and which examples are held out: functions of content, not of files."""

from __future__ import annotations

import hashlib
import json

from s2l_ray.corpus.rows import BadRow, Turns


def content_of(turns: Turns) -> bytes:
    """Return the canonical JSON of the turns, which ids and the held-out draw depend on."""
    return _utf8(json.dumps(turns, ensure_ascii=False, separators=(",", ":")))


def example_id_of(source: str, content: bytes) -> int:
    """Hash source and content to 63 bits."""
    return hash63(_utf8(json.dumps(source, ensure_ascii=False)) + content)


def is_heldout(content: bytes, share: float, seed: int) -> bool:
    """Draw by content alone: the same text from two sources is never on both sides."""
    return hash63(b"heldout %d " % seed + content) < share * 2**63


def hash63(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise BadRow("not Unicode text", f"half of a surrogate pair, U+{code:04X}") from None
