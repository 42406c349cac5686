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
    """Follow all ways to match at once: with several **, there are too many to try each."""
    ways = _passed({0}, pattern)  # places in the pattern
    for level in name:
        taken = set[int]()
        for place in ways - {len(pattern)}:
            if pattern[place] == "**":
                taken |= {place} if match(level, "*") else set()
            elif level == pattern[place] or match(level, pattern[place]):
                taken.add(place + 1)
        ways = _passed(taken, pattern)
    return len(pattern) in ways


def _passed(places: set[int], pattern: list[str]) -> set[int]:
    """Add the places behind each **, which may match nothing."""
    found = set[int]()
    for place in places:
        found.add(place)
        while place < len(pattern) and pattern[place] == "**":
            place += 1
            found.add(place)
    return found
