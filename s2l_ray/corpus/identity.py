"""Ids of examples, and which examples are held out: functions of content, not of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from json.encoder import encode_basestring as _string
from typing import Any

from s2l_ray.corpus.rows import BadRow, Example

# What json.dumps(…, ensure_ascii=False) makes of a string is `_string`; it costs half as much.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

BEYOND_TEXT = ("reasoning", "tool_calls", "name", "tool_call_id", "train")


def content_of(example: Example) -> bytes:
    """Return the canonical JSON of an example, which ids and the held-out draw depend on.

    It is [[role, text], …]. What a turn has beyond its text is a third item, an object; the tools
    are one more item after the turns.
    """
    items = []
    for turn in example.turns:
        item = f"[{_string(turn['role'])},{_string(turn['text'])}"
        if len(turn) > 2:
            fields: Mapping[str, Any] = turn
            more = {name: fields[name] for name in BEYOND_TEXT if fields.get(name) is not None}
            item += f",{_json(more)}" if more else ""
        items.append(item + "]")
    if example.tools is not None:
        items.append(_json({"tools": example.tools}))
    return _utf8(f"[{','.join(items)}]")


def example_id_of(source: str, content: bytes) -> int:
    """Hash source and content to 63 bits."""
    return hash63(_utf8(_string(source)) + content)


def is_heldout(content: bytes, share: float, seed: int) -> bool:
    """Draw by content alone: the same text from two sources is never on both sides."""
    return share > 0 and hash63(b"heldout %d " % seed + content) < share * 2**63


def hash63(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise BadRow("not Unicode text", f"half of a surrogate pair, U+{code:04X}") from None
