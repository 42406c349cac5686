"""Limits on the sizes in a model's config. Building a model beyond them could take hours or all
memory, before its weights are even read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What a key's name says, and the largest number that it may have.
LIMITS = (
    (re.compile(r"layers?$|^(n|num)_\w*layer|depths?$|blocks?$"), 1000),
    (re.compile(r"^(n|num)_\w*experts?"), 20_000),
    (re.compile(r"size|dim|hidden|vocab|embd|inner|width|head|position"), 2**27),
)
LONGEST = 100_000  # entries of a list
DEEPEST = 10  # mappings inside one another


def sizes_fault(config: Any, above: str = "", depth: int = 0) -> str | None:
    """Say which value of a model's config is too large, or return None.

    config: as config.json has it, or a part of it.
    """
    if depth > DEEPEST:
        return f"{above}nested more than {DEEPEST} deep"
    if not isinstance(config, Mapping):
        return None
    for key, value in config.items():
        name = f"{above}{str(key)[:60]}"
        if isinstance(value, list):
            most = 1000 if "layer" in str(key) else LONGEST
            if len(value) > most:
                return f"{name}: found {len(value):,} entries, expected at most {most:,}"
        values = value if isinstance(value, list) else [value]
        for each in values:
            if isinstance(each, int) and (fault := _too_large(str(key), each)):
                return f"{name}: {fault}"
            if fault := sizes_fault(each, f"{name}.", depth + 1):
                return fault
    return None


def _too_large(key: str, value: int) -> str | None:
    for pattern, most in LIMITS:
        if pattern.search(key.lower()):
            if value <= most:
                return None
            found = f"{value:,}" if value < 2**63 else "an integer beyond 64 bits"
            return f"found {found}, expected at most {most:,}"
    return None
