"""YAML as plain data. What YAML lets pass in silence, or unfolds without end, is refused."""

from __future__ import annotations

import re
from typing import Any

import yaml

KINDS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge")
TAGS = {f"tag:yaml.org,2002:{kind}": kind for kind in KINDS}
MAX_DEPTH = 40  # also what ends a value that holds itself
MAX_VALUES = 10_000  # with every alias unfolded
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair: no Unicode text


def parse_yaml(text: str) -> Any:
    """The one document of a text as mappings, lists and scalars.

    ValueError, with the line, for what is not YAML, a key given twice, a tag that makes an object,
    a scalar that is not what it looks like (2024-13-45), an integer beyond 64 bits, or too much.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check(loader, root)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None


def _check(loader: yaml.SafeLoader, root: yaml.Node) -> None:
    """Walk over the nodes before anything is made of them."""
    waiting, seen = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise _fault(node, f"nested more than {MAX_DEPTH} deep")
        if seen > MAX_VALUES:
            raise _fault(node, f"more than {MAX_VALUES:,} values, aliases unfolded")
        if node.tag not in TAGS:
            raise _fault(node, f"tag {node.tag!r}, wanted plain values")
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(loader, node)
        elif isinstance(node, yaml.MappingNode):
            names = set()
            for key, value in node.value:
                if (key.tag, str(key.value)) in names:
                    raise _fault(key, f"key {key.value!r} is given twice")
                names.add((key.tag, str(key.value)))
                waiting += [(key, depth + 1), (value, depth + 1)]
        else:
            waiting += [(item, depth + 1) for item in node.value]


def _check_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> None:
    kind = TAGS[node.tag]
    if SURROGATE.search(node.value):
        raise _fault(node, "half of a surrogate pair, wanted Unicode text")
    if kind == "merge":
        return
    try:
        value = loader.construct_object(node)
    # What yaml's own constructors let escape for a text that is not of the tag's kind.
    except (ValueError, AttributeError, LookupError):
        raise _fault(node, f"{node.value[:60]!r} is no {kind}") from None
    if isinstance(value, int) and abs(value) >= 2**63:
        raise _fault(node, f"{node.value[:60]!r} is beyond 64 bits")


def _fault(node: yaml.Node, message: str) -> ValueError:
    return ValueError(f"line {node.start_mark.line + 1}: {message}")
