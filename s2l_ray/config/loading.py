"""Reading and validating a configuration. Nothing else in the project parses one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, get_origin

from pydantic import (
    ValidationError,
)

from s2l_ray.config.base import Section
from s2l_ray.config.hints import hint, section_of
from s2l_ray.config.run import RunConfig
from s2l_ray.config.strict_yaml import MAX_DEPTH, parse_yaml
from s2l_ray.config.values import shown
from s2l_ray.errors import ConfigError


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML file, apply `key.path=value` overrides (values are YAML) and validate.

    Raises ConfigError with every fault found, one per line, and whether it is the file's or an
    override's.
    """
    file = read_file(path)
    data = deepcopy(file)
    overridden = {apply_override(data, override)[0] for override in overrides}
    return _validated(data, lambda fault: _origin(fault, str(path), file, overridden))


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML file as a mapping that is not validated yet."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {_kind(data)}")
    return data


def validate(data: dict[str, Any], *, origin: str = "config") -> RunConfig:
    """Validate a mapping; ConfigError names each field, what was expected and what it has."""
    return _validated(data, lambda _: origin)


def _validated(data: dict[str, Any], origin_of: Callable[[Any], str]) -> RunConfig:
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        lines = [f"{origin_of(fault)}: {_explain(fault)}" for fault in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _origin(fault: Any, path: str, file: dict[str, Any], overridden: set[tuple[str, ...]]) -> str:
    """Say what a fault is in: an override, the file, or the file together with overrides.

    overridden: the fields that overrides set. Their values may hold what must not be repeated.
    """
    names = _names(fault["loc"])
    if any(names[: len(field)] == field for field in overridden):
        return "override"
    try:
        RunConfig.model_validate(file)
    except ValidationError as error:
        if any(
            (each["loc"], each["msg"]) == (fault["loc"], fault["msg"]) for each in error.errors()
        ):
            return path
    together = sorted(".".join(field) for field in overridden if field[: len(names)] == names)
    if fault["type"] == "extra_forbidden":  # a section that only overrides name
        return "override"
    return f"{path} with the override of {', '.join(together)}" if together else path


def apply_override(data: dict[str, Any], override: str) -> tuple[tuple[str, ...], Any]:
    """Set one `key.path=value` in `data`; return its path and value."""
    key, equals, value = override.partition("=")
    *parents, last = names = key.strip().split(".")
    # Messages repeat the key alone: the value may be a secret.
    if not equals or not all(names) or len(names) > MAX_DEPTH:
        raise ConfigError(f"override {shown(override)}: expected key.path=value")
    node = data
    for name in parents:
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
        if not isinstance(node, dict):
            raise ConfigError(f"override of {key.strip()!r}: {name} is not a section")
    try:
        node[last] = parse_yaml(value)
    except ValueError as error:
        raise ConfigError(f"override of {key.strip()!r}: the value is not YAML: {error}") from None
    return tuple(names), node[last]


def _section_at(location: tuple[int | str, ...]) -> type[Section] | None:
    """Return the class of the section that a location names, or None."""
    section: type[Section] | None = RunConfig
    own_name = False  # the user's name of an entry, in a mapping of sections
    for name in location:
        if own_name:
            own_name = False
            continue
        if section is None or str(name) not in section.model_fields:
            return None
        annotation = section.model_fields[str(name)].annotation
        own_name = get_origin(annotation) is dict
        section = section_of(annotation)
    return section


def _names(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the keys of a location. pydantic also names the choices of a union:
    corpus.path.list[str].0"""
    choice = re.compile(r"^(list|function-after)\[|\bstr$")
    return tuple(str(part) for part in location if not choice.search(str(part)))


def _explain(fault: Any) -> str:
    location = fault["loc"]
    field = ".".join(_names(location)) or "the configuration"
    found = fault.get("input")
    text = shown(found)
    if fault["type"] == "extra_forbidden":
        section = _section_at(location[:-1])
        near = f"; {hint(str(location[-1]), section, RunConfig)}" if section else ""
        return f"{field}: unknown key (value {text}){near}"
    if fault["type"] == "missing":
        return f"{field}: required, but missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{field}: {message}"
    section = _section_at(location)
    if section and isinstance(found, str):  # such as proxy.model: owner/model
        likely = [
            name
            for name in ("name", "path", "selector", "template")
            if name in section.model_fields
        ]
        text += f"; nearest valid name: {field}.{likely[0]}" if likely else ""
    if fault["type"] != "literal_error":
        message = message.partition(", ")[0]  # the rest says what the value is
    elif isinstance(found, str):
        valid = re.findall(r"'([^']*)'", message)
        close = difflib.get_close_matches(found, valid, n=1, cutoff=0.4)
        text += f"; nearest valid name: {close[0]}" if close else ""
    return f"{field}: {_expected(message)}, got {text}"


def _expected(message: str) -> str:
    """Turn pydantic's "Input should be ..." and the like into "expected ..."."""
    subject, should, rest = message.partition(" should ")
    if not should:
        return f"expected: {message}"
    rest = re.sub(r"a valid dictionary.*", "a mapping", rest).removesuffix(" after validation")
    if subject != "Input":
        article = "" if subject.endswith("s") else "a "
        return f"expected {article}{subject.lower()} to {rest}"
    rest = rest.removeprefix("be ")
    number = "a number " if rest.startswith(("greater", "less")) else ""
    return f"expected {number}{rest}"


def _kind(value: Any) -> str:
    return {list: "a list", type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")
