"""Ids of examples, and which examples are held out: functions of content, not of files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson

from s2l_ray.corpus.rows import BadRow, Example

MIX, MASK = 0x9E3779B97F4A7C15, 2**63 - 1  # Fibonacci hashing
BEYOND_TEXT = ("reasoning", "tool_calls", "name", "tool_call_id", "train")


def content_of(example: Example) -> bytes:
    """Return the canonical JSON of an example, which ids and the held-out draw depend on.

    It is [[role, text], …]. What a turn has beyond its text is a third item, an object; the tools
    are one more item after the turns.
    """
    items: list[Any] = []
    for turn in example.turns:
        item: list[Any] = [turn["role"], turn["text"]]
        if len(turn) > 2:
            fields: Mapping[str, Any] = turn
            more = {name: fields[name] for name in BEYOND_TEXT if fields.get(name) is not None}
            item += [more] if more else []
        items.append(item)
    if example.tools is not None:
        items.append({"tools": example.tools})
    return _json(items)


def contents_of(turns: Sequence[tuple[str, str]], offsets: Sequence[int]) -> list[bytes]:
    """Return what `content_of` does for many examples, whose turns are (role, text).

    offsets: where the turns of each begin, and where the last end.
    """
    return [orjson.dumps(turns[first:end]) for first, end in pairwise(offsets)]


def example_id_of(source: str, content: bytes) -> int:
    """Hash source and content to 63 bits."""
    return hash63(_json(source) + content)


def example_ids_of(sources: Sequence[str], contents: Sequence[bytes]) -> np.ndarray:
    """Return what `example_id_of` does for many examples, as int64."""
    texts = {source: _json(source) for source in set(sources)}
    return _hashes(
        texts[source] + content for source, content in zip(sources, contents, strict=True)
    )


def is_heldout(content: bytes, share: float, seed: int) -> bool:
    """Draw by content alone: the same text from two sources is never on both sides."""
    return share > 0 and draw_of(content, seed) < share * 2**63


def are_heldout(contents: Sequence[bytes], share: float, seed: int) -> np.ndarray:
    """Return what `is_heldout` does for many examples."""
    if not share > 0:
        return np.zeros(len(contents), bool)
    return draws_of(contents, seed) < math.ceil(share * 2**63)


def draw_of(content: bytes, seed: int) -> int:
    """Return the number that decides whether a content is held out."""
    return hash63(b"heldout %d " % seed + content)


def draws_of(contents: Sequence[bytes], seed: int) -> np.ndarray:
    """Return what `draw_of` does for many contents, as int64."""
    start = b"heldout %d " % seed
    return _hashes(start + content for content in contents)


def is_used(key: int, share: float) -> bool:
    """Draw a share of the rows by their keys (of examples, their ids). Mixed, so that it does not
    depend on the part that a key belongs to."""
    return share >= 1 or (key * MIX & MASK) < share * 2**63


def are_used(keys: np.ndarray, share: float) -> np.ndarray:
    """Return what `is_used` does for many keys, int64."""
    with np.errstate(over="ignore"):
        mixed = keys.astype(np.uint64) * np.uint64(MIX) & np.uint64(MASK)
    return mixed < np.uint64(math.ceil(share * 2**63))


def hash63(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def _hashes(texts: Iterable[bytes]) -> np.ndarray:
    """Return `hash63` of each text."""
    digests = b"".join([hashlib.blake2b(text, digest_size=8).digest() for text in texts])
    return (np.frombuffer(digests, ">u8") >> np.uint64(1)).astype(np.int64)


def _json(value: Any) -> bytes:
    """Return compact JSON that escapes nothing but quotes, backslashes and control characters."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise BadRow("not Unicode text", f"half of a surrogate pair, U+{code:04X}") from None
