"""A configuration as a YAML file that says where each value comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from s2l_ray.config.inspection import Setting
from s2l_ray.config.run import RunConfig

WIDTH = 60  # comments start here, or after the longest line if that is shorter


def as_yaml(config: RunConfig, settings: Iterable[Setting]) -> str:
    """Render all values, each with its source in a comment. `load` reads the same configuration."""
    sources = {each.key: each.source for each in settings}
    lines = list(_lines(config.model_dump(mode="json")))
    width = min(max(len(line) for line, _ in lines), WIDTH)
    return "".join(
        f"{line:{width}}  # {sources[key]}\n" if key is not None else f"{line}\n"
        for line, key in lines
    )


def _lines(
    section: dict[str, Any], above: str = "", indent: str = ""
) -> Iterator[tuple[str, str | None]]:
    """Each line of a mapping, and the dotted key of the value on it if there is one."""
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{_one_line(name)}:", None
            yield from _lines(value, f"{above}{name}.", f"{indent}  ")
        else:
            yield f"{indent}{_one_line(name)}: {_one_line(value)}", f"{above}{name}"


def _one_line(value: Any) -> str:
    texts = [text for text in (value if isinstance(value, list) else [value]) if type(text) is str]
    style = None if all(map(str.isprintable, texts)) else '"'  # which escapes line breaks
    text = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("...\n").strip()
