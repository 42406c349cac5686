"""Values that are compared with files in tests/golden."""

import difflib
import json

import pytest


def compare(path, found, update):
    """Fail with the differences between a JSON value and that of a file, or write the file."""
    found = json.loads(json.dumps(found, sort_keys=True))
    if update:
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        return
    expected = json.loads(path.read_text()) if path.exists() else {}
    if expected == found:
        return
    lines = [list(_leaves(value)) for value in (expected, found)]
    changes = list(difflib.unified_diff(*lines, path.name, "found", lineterm="", n=0))
    more = [f"… {len(changes) - 60} more lines"] if len(changes) > 60 else []
    hint = "if that is intended: python -m pytest tests/golden --update-golden"
    pytest.fail("\n".join([*changes[:60], *more, hint]), pytrace=False)


def _leaves(value, place=""):
    """A line per leaf of a JSON value, with the keys that lead there."""
    if isinstance(value, dict) and value:
        for key in sorted(value):
            yield from _leaves(value[key], f"{place}{key}: ")
    elif isinstance(value, list) and value:
        for item in value:
            yield from _leaves(item, place)
    else:
        yield place + json.dumps(value, ensure_ascii=False)
