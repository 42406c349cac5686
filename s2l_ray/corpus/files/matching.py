"""Patterns of paths, matched level by level as a shell does."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

MAGIC = "*?["


def matches(name: str, pattern: str, match: Callable[[str, str], bool]) -> bool:
    """Match a path: * stays inside a level, ** spans any number. match: one level."""
    return _matches(name.split("/"), pattern.split("/"), match)


def is_visible(name: str, pattern: str) -> bool:
    """Match one level; a leading dot must be written out."""
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return fnmatch.fnmatchcase(name, pattern)


def _matches(name: list[str], pattern: list[str], match: Callable[[str, str], bool]) -> bool:
    if not name or not pattern:
        return not name and (not pattern or pattern == ["**"])
    if pattern[0] == "**":
        if _matches(name, pattern[1:], match):
            return True
        return match(name[0], "*") and _matches(name[1:], pattern, match)
    same = name[0] == pattern[0] or match(name[0], pattern[0])
    return same and _matches(name[1:], pattern[1:], match)
