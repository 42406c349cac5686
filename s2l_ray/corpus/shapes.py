"""From the content of a row to the turns of an example. Pure functions, no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from s2l_ray.corpus.columns import Columns, listed
from s2l_ray.corpus.rows import BadRow, Example, Turn

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}

KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def parse(content: Any, columns: Columns, source: str) -> tuple[str, Example]:
    """Return the source (`source` if the row names none) and the example of a row.

    BadRow says why the row is not an example.
    """
    if not isinstance(content, dict):
        raise BadRow("not an object", f"got {_kind(content)}")
    turns = _chat(content, columns.messages) if columns.messages else _pair(content, columns)
    return _source(content, columns.source) or source, Example(turns)


def _source(row: dict[str, Any], column: str | None) -> str | None:
    found = row.get(column) if column else None
    wrong = f"wrong type of {column!r}"
    if isinstance(found, float) and not math.isfinite(found):
        raise BadRow(wrong, f"expected a string, got {found}")
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return str(found)
    if found is not None and not isinstance(found, str):
        raise BadRow(wrong, f"expected a string, got {_kind(found)}")
    return found


def _pair(row: dict[str, Any], columns: Columns) -> list[Turn]:
    assert columns.instruction and columns.output and columns.input
    turns: list[Turn] = []
    if columns.system and not _is_blank(row.get(columns.system)):
        turns.append({"role": "system", "text": _text(row, columns.system)})
    turns.append({"role": "user", "text": _text(row, columns.instruction)})
    if not _is_blank(row.get(columns.input)):
        turns.append({"role": "input", "text": _text(row, columns.input)})
    turns.append({"role": "assistant", "text": _text(row, columns.output)})
    return turns


def _chat(row: dict[str, Any], column: str) -> list[Turn]:
    messages = _present(row, column)
    if not isinstance(messages, list):
        raise BadRow(f"wrong type of {column!r}", f"expected a list, got {_kind(messages)}")
    turns: list[Turn] = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            detail = f"expected an object as message {number}, got {_kind(message)}"
            raise BadRow(f"wrong type in {column!r}", detail)
        name = next((n for n in ("role", "from") if message.get(n) is not None), None)
        if name is None:
            raise BadRow("missing field 'role'", f"message {number}, {_found(message)}")
        role = ROLES.get(message[name]) if isinstance(message[name], str) else None
        if role is None:
            raise BadRow("unknown role", f"{repr(message[name])[:40]} in message {number}")
        field = next((n for n in ("content", "value") if message.get(n) is not None), "content")
        text = _joined(_present(message, field), field, number)
        if not text.strip() and role != "system":
            raise BadRow(f"empty field {field!r}", f"message {number}, role {role}")
        turns.append({"role": role, "text": text})
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadRow("no assistant turn", f"{len(turns)} messages")
    if turns[0]["role"] == "assistant":
        raise BadRow("the first turn is the assistant's")
    return turns


def _joined(content: Any, field: str, number: int) -> str:
    """Return a message's text: a string, or a list of text parts as OpenAI writes them."""
    if isinstance(content, str):
        return content
    wrong = f"wrong type of {field!r}"
    if not isinstance(content, list):
        raise BadRow(wrong, f"expected a string in message {number}, got {_kind(content)}")
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str) or part.get("type", "text") != "text":
            kind = repr(part.get("type"))[:40] if isinstance(part, dict) else _kind(part)
            raise BadRow(wrong, f"expected text parts in message {number}, got {kind}")
    return "".join(part["text"] for part in content)


def _present(row: dict[str, Any], field: str) -> Any:
    if field not in row:
        raise BadRow(f"missing field {field!r}", _found(row))
    if row[field] is None:
        raise BadRow(f"empty field {field!r}", "null")
    return row[field]


def _text(row: dict[str, Any], field: str) -> str:
    value = _present(row, field)
    if not isinstance(value, str):
        raise BadRow(f"wrong type of {field!r}", f"expected a string, got {_kind(value)}")
    if not value.strip():
        raise BadRow(f"empty field {field!r}")
    return value


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _kind(value: Any) -> str:
    return KINDS.get(type(value), type(value).__name__)


def _found(row: Mapping[str, Any]) -> str:
    return f"found {listed(list(row))}"
