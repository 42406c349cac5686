"""What identifies an example, a held-out example and a corpus."""

from __future__ import annotations

import hashlib
import json

from s2l_ray.corpus.bad_row import BadRow, Turns


def content_of(turns: Turns) -> bytes:
    """Canonical JSON of the turns: what identity and the held-out share go by."""
    return _utf8(json.dumps(turns, ensure_ascii=False, separators=(",", ":")))


def example_id_of(source: str, content: bytes) -> int:
    """63 bits of a hash of source and content."""
    return hash63(_utf8(json.dumps(source, ensure_ascii=False)) + content)


def is_heldout(content: bytes, share: float, seed: int) -> bool:
    """By content without source: the same text never stands on both sides."""
    return hash63(b"heldout %d " % seed + content) < share * 2**63


def hash63(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise BadRow("not Unicode text", f"half of a surrogate pair, U+{code:04X}") from None
