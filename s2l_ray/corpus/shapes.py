"""One row of a source as the turns of an example, and back. Pure functions, no I/O."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.corpus.bad_row import BadRow, Turns

PAIRS = [  # prompt and response columns, in order of preference
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
]


INPUTS = ["input", "context"]  # beside a pair: what the prompt is about


SYSTEMS = ["system", "system_prompt"]  # beside a pair: what stands before it


CHATS = ["messages", "conversations"]  # OpenAI, ShareGPT; these go before pairs


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


@dataclass(frozen=True)
class Columns:
    """The columns of one file: `messages`, or `instruction` and `output` with maybe `input` and
    `system`."""

    instruction: str | None = None
    output: str | None = None
    input: str | None = None
    messages: str | None = None
    source: str | None = None
    system: str | None = None


def detect(rows: Sequence[Iterable[str]], given: Mapping[Any, str | None], file: str) -> Columns:
    """The columns to read in a file, from the column names of its first rows.

    `given` (config.columns) goes before what is found; ValueError if it names what is not there,
    or if nothing of a known shape is.
    """
    names = [set(row) for row in rows]
    union = sorted(set().union(*names))
    source = given.get("source", "source")
    wanted = {field: column for field, column in given.items() if column is not None}
    for field, column in wanted.items():
        if column not in union:
            near = difflib.get_close_matches(column, union, n=1, cutoff=0.4)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(
                f"{file}: no column {column!r} (corpus.columns.{field}); "
                f"found {_listed(union)}{hint}"
            )
    if "messages" in wanted:
        if wanted.keys() & {"instruction", "input", "output"}:
            raise ValueError(
                f"{file}: corpus.columns names both messages and "
                f"{_listed(sorted(wanted.keys() - {'messages', 'source'}))}; one shape is wanted"
            )
        return Columns(messages=wanted["messages"], source=source)
    if "instruction" in wanted or "output" in wanted:
        pairs = [(wanted.get("instruction", a), wanted.get("output", b)) for a, b in PAIRS]
        shapes: list[tuple[str, ...]] = [*dict.fromkeys(pairs)]
    else:
        shapes = [*((chat,) for chat in CHATS if "input" not in wanted), *PAIRS]
    whole = (s for row in names for s in shapes if row.issuperset(s))
    some = (s for row in names for s in shapes if row.intersection(s))  # rows will be rejected
    shape = next(whole, None) or next(some, None)
    if shape is None:
        raise ValueError(
            f"{file}: no columns of a known shape: found {_listed(union)}; wanted "
            f"{' or '.join([*CHATS, *map(' and '.join, PAIRS)])}, or set corpus.columns"
        )
    if len(shape) == 1:
        return Columns(messages=shape[0], source=source)
    extra = next((name for name in INPUTS if name in union and name not in shape), "input")
    system = next((name for name in SYSTEMS if name in union), None)
    return Columns(shape[0], shape[1], wanted.get("input", extra), source=source, system=system)


def parse(record: Any, columns: Columns, source: str) -> tuple[str, Turns]:
    """The source and the turns of a row; BadRow says why it has none."""
    if not isinstance(record, dict):
        raise BadRow("not an object", f"found {_kind(record)}")
    if columns.messages:
        turns = _chat(record, columns.messages)
    else:
        assert columns.instruction and columns.output and columns.input
        turns = []
        if columns.system and not _is_blank(record.get(columns.system)):
            turns.append(("system", _text(record, columns.system)))
        turns.append(("user", _text(record, columns.instruction)))
        if not _is_blank(record.get(columns.input)):
            turns.append(("input", _text(record, columns.input)))
        turns.append(("assistant", _text(record, columns.output)))
    found = record.get(columns.source) if columns.source else None
    if isinstance(found, float) and not math.isfinite(found):
        raise BadRow(f"wrong type of {columns.source!r}", f"found {found}, wanted a string")
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        found = str(found)
    if found is not None and not isinstance(found, str):
        raise BadRow(f"wrong type of {columns.source!r}", f"found {_kind(found)}, wanted a string")
    return found or source, turns


def _chat(record: dict[str, Any], column: str) -> Turns:
    messages = _present(record, column)
    if not isinstance(messages, list):
        raise BadRow(f"wrong type of {column!r}", f"found {_kind(messages)}, wanted a list")
    turns: Turns = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            detail = f"found {_kind(message)} as message {number}, wanted an object"
            raise BadRow(f"wrong type in {column!r}", detail)
        name = next((n for n in ("role", "from") if message.get(n) is not None), None)
        if name is None:
            raise BadRow("missing field 'role'", f"message {number}, {_found(message)}")
        role = ROLES.get(message[name]) if isinstance(message[name], str) else None
        if role is None:
            shown = repr(message[name])[:40]
            raise BadRow("unknown role", f"{shown} in message {number}")
        field = next((n for n in ("content", "value") if message.get(n) is not None), "content")
        text = _joined(_present(message, field), field, number)
        if not text.strip() and role != "system":
            raise BadRow(f"empty field {field!r}", f"message {number}, of the {role}")
        turns.append((role, text))
    if not any(role == "assistant" for role, _ in turns):
        raise BadRow("no assistant turn", f"{len(turns)} messages")
    if turns[0][0] == "assistant":
        raise BadRow("the assistant turn comes first, without a prompt")
    return turns


def _joined(content: Any, field: str, number: int) -> str:
    """A message's text: a string, or OpenAI's list of text parts."""
    if isinstance(content, str):
        return content
    wrong = f"wrong type of {field!r}"
    if not isinstance(content, list):
        raise BadRow(wrong, f"found {_kind(content)} in message {number}, wanted a string")
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str) or part.get("type", "text") != "text":
            shown = repr(part.get("type"))[:40] if isinstance(part, dict) else _kind(part)
            raise BadRow(wrong, f"found a part {shown} in message {number}, wanted text parts")
    return "".join(part["text"] for part in content)


def _present(record: dict[str, Any], field: str) -> Any:
    if field not in record:
        raise BadRow(f"missing field {field!r}", _found(record))
    if record[field] is None:
        raise BadRow(f"empty field {field!r}", "found null")
    return record[field]


def _text(record: dict[str, Any], field: str) -> str:
    value = _present(record, field)
    if not isinstance(value, str):
        raise BadRow(f"wrong type of {field!r}", f"found {_kind(value)}, wanted a string")
    if not value.strip():
        raise BadRow(f"empty field {field!r}")
    return value


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _kind(value: Any) -> str:
    return KINDS.get(type(value), type(value).__name__)


def _found(record: Mapping[str, Any]) -> str:
    return f"found {_listed(list(record))}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(str(name)[:40] for name in names[:10])
    return (shown or "nothing") + (f" and {len(names) - 10} more" if len(names) > 10 else "")
