"""What a configuration may hold (its JSON schema), and what one holds and why (`resolve`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.config.loading import apply_override, load, read_file
from s2l_ray.config.run import RunConfig

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """One resolved value. source: "default", "override", or the file's path as it was given."""

    key: str  # "proxy.model.name"
    value: Any  # plain JSON; never a mapping with entries, which are settings of their own
    source: str


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, with a description of every field."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | RunConfig.model_json_schema()


def resolve(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> list[Setting]:
    """Resolve a file and `key.path=value` overrides: every value, and where it comes from.

    In the order of the sections. ConfigError as for `load`.
    """
    data = read_file(path)
    sources = dict.fromkeys((keys for keys, _ in _leaves(data)), str(path))
    for override in overrides:
        given, value = apply_override(data, override)
        # An override replaces what the file has there, and all below it.
        sources = {keys: s for keys, s in sources.items() if keys[: len(given)] != given}
        sources |= {(*given, *keys): "override" for keys, _ in _leaves(value)}
    config = load(path, overrides).model_dump(mode="json")
    return [
        Setting(".".join(keys), value, sources.get(keys, "default"))
        for keys, value in _leaves(config)
    ]


def _leaves(value: Any, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """The values of nested mappings with their keys; an empty mapping is a value."""
    if not isinstance(value, dict) or not value:
        yield above, value
        return
    for key, below in value.items():
        yield from _leaves(below, (*above, key))
