"""YAML as plain data, without duplicate keys, object tags or values of unbounded size."""

from __future__ import annotations

import re
from typing import Any

import yaml

KINDS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge")
TAGS = {f"tag:yaml.org,2002:{kind}": kind for kind in KINDS}
MAX_DEPTH = 40  # also ends a value that contains itself
MAX_VALUES = 10_000  # with every alias expanded
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, which is not Unicode text


def parse_yaml(text: str) -> Any:
    """Parse the only document of a text into mappings, lists and scalars.

    ValueError, with the line, for invalid YAML, a duplicate key, a tag that makes an object, a
    malformed scalar (2024-13-45), an integer beyond 64 bits, or more than MAX_VALUES values.
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
    """Check the nodes before any value is built from them."""
    waiting, seen = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise _fault(node, f"nested more than {MAX_DEPTH} deep")
        if seen > MAX_VALUES:
            raise _fault(node, f"more than {MAX_VALUES:,} values, aliases expanded")
        if node.tag not in TAGS:
            raise _fault(node, f"expected plain values, got the tag {node.tag!r}")
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(loader, node)
        elif isinstance(node, yaml.MappingNode):
            names = set()
            for key, value in node.value:
                if (key.tag, str(key.value)) in names:
                    raise _fault(key, f"duplicate key {key.value!r}")
                names.add((key.tag, str(key.value)))
                waiting += [(key, depth + 1), (value, depth + 1)]
        else:
            waiting += [(item, depth + 1) for item in node.value]


def _check_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> None:
    kind = TAGS[node.tag]
    if SURROGATE.search(node.value):
        raise _fault(node, "expected Unicode text, got half of a surrogate pair")
    if kind == "merge":
        return
    try:
        value = loader.construct_object(node)
    # Raised by yaml's own constructors if the text does not fit the tag.
    except (ValueError, AttributeError, LookupError):
        raise _fault(node, f"expected a value of type {kind}, got {node.value[:60]!r}") from None
    if isinstance(value, int) and abs(value) >= 2**63:
        raise _fault(node, f"expected a number within 64 bits, got {node.value[:60]!r}")


def _fault(node: yaml.Node, message: str) -> ValueError:
    return ValueError(f"line {node.start_mark.line + 1}: {message}")
