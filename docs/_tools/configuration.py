"""Write docs/configuration.md from the fields of s2l_ray.config.

python docs/_tools/configuration.py, or `make docs`. A test fails if the page is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from pydantic import TypeAdapter

from s2l_ray.config import schema
from s2l_ray.config.values import Budget, Interval, Location, SelectorName

PAGE = Path(__file__).resolve().parents[1] / "configuration.md"

HEAD = """\
<!-- Made by docs/_tools/configuration.py from the descriptions in s2l_ray/config: edit those. -->

# Configuration

One YAML file describes a run. `run_dir`, `corpus.path` and `proxy` are required; everything else
has a default. After the file, every command takes `key.path=value`, which replaces one value:

```sh
python jobs/select.py my.yaml selection.budget=0.05 proxy.workers.num_workers=2
```

An unknown key or a value of the wrong type is refused before anything runs.

`s2l-ray config show my.yaml` prints every value and where it comes from. `s2l-ray config schema`
prints the JSON schema, with which editors complete and check the file.
"""

Node = dict[str, Any]
NAMED: list[tuple[Any, str, str]] = [  # types with a name that says more than their schema
    (Location, "path", "paths"),
    (SelectorName, "[selector](selectors.md)", "[selectors](selectors.md)"),
    (Budget, "number or string", "numbers or strings"),
    (Interval, "integer ≥ 1 or time", "integers ≥ 1 or times"),
]
WORDS = ("title", "description", "default")  # what a schema says beside the type


def page() -> str:
    """The page as it should be."""
    root = schema()
    sections: dict[str, Node] = root["$defs"]
    places: dict[str, list[str]] = {}
    for name, key in _sections(root, sections):
        places.setdefault(name, []).append(key)
    titles = {name: _title(keys) for name, keys in places.items()}
    parts = [HEAD, "## The run", "The keys at the top of the file.", _table(root, titles)]
    for name, title in titles.items():
        parts += [f"## {title}", sections[name]["description"]]
        if any("." in key for key in places[name]):
            parts.append(f"At {_words([_place(key) for key in places[name]], 'and')}.")
        parts.append(_table(sections[name], titles))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _sections(node: Node, sections: dict[str, Node], above: str = "") -> Iterator[tuple[str, str]]:
    """The class of each section below a node, and its key (NAME: chosen by the user)."""
    for field, below in node["properties"].items():
        for place, name in _references(below):
            key = f"{above}{field}{place}"
            yield name, key
            yield from _sections(sections[name], sections, f"{key}.")


def _references(node: Node, place: str = "") -> Iterator[tuple[str, str]]:
    if "$ref" in node:
        yield place, _name(node)
    for choice in node.get("anyOf", []):
        yield from _references(choice, place)
    for value in node.get("patternProperties", {}).values():
        yield from _references(value, f"{place}.NAME")


def _name(node: Node) -> str:
    return str(node["$ref"].rpartition("/")[2])


def _title(keys: list[str]) -> str:
    top = [key for key in keys if "." not in key]
    return " and ".join(top) if top else keys[0].rpartition(".")[2]


def _place(key: str) -> str:
    each = key.removesuffix(".NAME")
    return f"`{key}`" if each == key else f"each name in `{each}`"


def _table(section: Node, titles: dict[str, str]) -> str:
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field, node in section["properties"].items():
        default = _default(node) if field not in section.get("required", []) else "required"
        cells = [f"`{field}`", _type(node, titles), default, node["description"]]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def _default(node: Node) -> str:
    value = node["default"]
    if isinstance(value, dict) and value:
        return ""  # a section: its fields have the defaults
    text = json.dumps(value, ensure_ascii=False)
    return f"`{_number(value) if isinstance(value, float) else text}`"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type(node: Node, titles: dict[str, str], *, many: bool = False) -> str:
    """A node of the schema in words, in the plural for the items of a list or mapping."""
    return _words(_choices(node, titles, many), "or")


def _choices(node: Node, titles: dict[str, str], many: bool) -> list[str]:
    kind = {key: value for key, value in node.items() if key not in WORDS}
    for named, one, several in NAMED:
        if kind == TypeAdapter(named).json_schema():
            return [several if many else one]
    if "$ref" in kind:
        title = titles[_name(kind)]
        return [f"[{title}](#{title.replace(' ', '-')})"]
    if "anyOf" in kind:
        return [each for choice in kind["anyOf"] for each in _choices(choice, titles, many)]
    if "enum" in kind:
        return [f"`{choice}`" for choice in kind["enum"]]
    name = kind.get("type", "anything")
    if name == "null":
        return ["`null`"]
    if name == "array":
        return [f"list{'s' * many} of {_type(kind['items'], titles, many=True)}"]
    if name == "object":
        inner = [*kind.get("patternProperties", {}).values(), kind.get("additionalProperties")]
        values = f" to {_type(inner[0], titles, many=True)}" if isinstance(inner[0], dict) else ""
        return [f"mapping{'s' * many}{values}"]
    return [f"{name}{'s' * many}{_bounds(kind)}"]


def _bounds(kind: Node) -> str:
    least, above = kind.get("minimum"), kind.get("exclusiveMinimum")
    most, below = kind.get("maximum"), kind.get("exclusiveMaximum")
    if below is not None and below >= 2**31:
        below = None  # the limit of a machine's integers
    if least is not None and most is not None:
        return f" from {_number(least)} to {_number(most)}"
    signs = [(least, "≥"), (above, ">"), (most, "≤"), (below, "<")]
    found = [f"{sign} {_number(bound)}" for bound, sign in signs if bound is not None]
    return f" {' and '.join(found)}" if found else ""


def _words(items: list[str], last: str) -> str:
    return f" {last} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
