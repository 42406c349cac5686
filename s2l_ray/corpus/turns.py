"""From a message of a chat to a turn. Pure functions, no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from s2l_ray.corpus.columns import listed
from s2l_ray.corpus.rows import BadRow, Turn, kind_of
from s2l_ray.corpus.tools import calls_text

CALL = "call"  # of names for a role: a message of its own with calls, which is the assistant's
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": CALL,
    "tool_call": CALL,
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}

REASONING = ("reasoning_content", "reasoning", "thinking")
LABELLED = {"weight": 1, "train": 1, "loss": 1, "mask": 0}  # the value that asks for labels
KNOWN = {
    "role", "from", "content", "value", *REASONING, "tool_calls", "function_call", "name",
    "tool_call_id", *LABELLED,
}  # fmt: skip

# Keys that say something about a message, but nothing to a model; so do all in _id and _at.
HARMLESS = {
    "id", "uuid", "guid", "hash", "index", "idx", "turn", "parent", "date", "time", "datetime",
    "timestamp", "created", "updated", "lang", "language", "model", "model_name", "generator",
    "rating", "score", "rank", "num_tokens", "n_tokens", "token_count", "finish_reason", "status",
    "state", "end_turn", "turn_identifier", "create_time", "update_time", "toxic", "redacted",
    "country", "header", "hashed_ip", "cache_control",
}  # fmt: skip

TEXT_PARTS = (None, "text", "input_text", "output_text")


class Rules(NamedTuple):
    """How messages are read: corpus.roles over ROLES, and corpus.ignore_keys."""

    roles: Mapping[str, str] = ROLES
    ignored: frozenset[str] = frozenset()
    typed: bool = False  # see tools.tools_text


def turns_of(messages: Iterable[Any], column: str, rules: Rules) -> list[Turn]:
    """Return a turn per message; BadRow says why there is none."""
    turns = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            detail = f"expected an object as message {number}, got {kind_of(message)}"
            raise BadRow(f"wrong type in {column!r}", detail)
        if rules.ignored:
            message = {key: message[key] for key in message if key not in rules.ignored}
        turns.append(_turn(message, number, rules))
    return turns


def _turn(message: Mapping[str, Any], number: int, rules: Rules) -> Turn:
    role = _role(message, number, rules.roles)
    field, content = _content(message, number)
    plain = len(message) == 2  # a role and a content
    if plain and role != CALL and content is not None:
        text = joined(content, field, number)
        if not text.strip() and role not in ("system", "tool"):
            raise BadRow(f"empty field {field!r}", f"message {number}, role {role}")
        return {"role": role, "text": text}
    if not plain:
        _refuse_unknown(message, number)
    if role == CALL:
        return _call_turn(message, field, content, number, rules)
    turn: Turn = {"role": role, "text": ""}
    calls = _calls(message, number, rules.typed)
    if content is not None:
        turn["text"] = joined(content, field, number)
    elif not (calls or role == "system"):
        present(message, field, f"message {number}, ")
    if not turn["text"].strip() and not calls and role not in ("system", "tool"):
        raise BadRow(f"empty field {field!r}", f"message {number}, role {role}")
    reasoning = _reasoning(message, number)
    name, call_id = (_string(message, key, number) for key in ("name", "tool_call_id"))
    _only(role, "assistant", number, reasoning=reasoning, tool_calls=calls)
    _only(role, "tool", number, tool_call_id=call_id)
    if reasoning is not None:
        turn["reasoning"] = reasoning
    if calls is not None:
        turn["tool_calls"] = calls
    if name is not None:
        turn["name"] = name
    if call_id is not None:
        turn["tool_call_id"] = call_id
    if not _is_trained(message, role, number):
        turn["train"] = False
    return turn


def _call_turn(
    message: Mapping[str, Any], field: str, content: Any, number: int, rules: Rules
) -> Turn:
    """Return the assistant's turn of a message that is nothing but calls (ShareGPT)."""
    more = [key for key in ("tool_calls", "function_call", "name", "tool_call_id")
            if not is_empty(message.get(key))]  # fmt: skip
    if more:
        raise BadRow(f"a call beside {more[0]!r}", f"message {number}")
    calls = calls_text(present(message, field), field, number, typed=rules.typed)
    if calls is None:
        raise BadRow(f"empty field {field!r}", f"message {number}, a call")
    turn: Turn = {"role": "assistant", "text": "", "tool_calls": calls}
    reasoning = _reasoning(message, number)
    if reasoning is not None:
        turn["reasoning"] = reasoning
    if not _is_trained(message, "assistant", number):
        turn["train"] = False
    return turn


def _role(message: Mapping[str, Any], number: int, roles: Mapping[str, str]) -> str:
    found = None
    for key in ("role", "from"):
        name = message.get(key)
        if name is None:
            continue
        role = roles.get(name.strip().lower()) if isinstance(name, str) else None
        if role is None:
            detail = f"{repr(name)[:40]} in message {number}; corpus.roles can give it a role"
            raise BadRow("unknown role", detail)
        if found not in (None, role):
            raise BadRow("'role' and 'from' differ", f"message {number}: {found} and {role}")
        found = role
    if found is None:
        raise BadRow("missing field 'role'", f"message {number}, {_found(message)}")
    return found


def _content(message: Mapping[str, Any], number: int) -> tuple[str, Any]:
    content, value = message.get("content"), message.get("value")
    if content is None:
        field = "content" if "content" in message and value is None else "value"
        return (field if field in message else "content"), value
    if value is not None and value != content:
        raise BadRow("'content' and 'value' differ", f"message {number}")
    return "content", content


def joined(content: Any, field: str, number: int) -> str:
    """Return a message's text: a string, or a list of text parts as OpenAI writes them."""
    if isinstance(content, str):
        return content
    wrong = f"wrong type of {field!r}"
    if not isinstance(content, list):
        raise BadRow(wrong, f"expected a string in message {number}, got {kind_of(content)}")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        text = part.get("text") if isinstance(part, dict) else None
        kind = part.get("type") if isinstance(part, dict) else kind_of(part)
        if not isinstance(text, str) or kind not in TEXT_PARTS:
            expected = f"expected text parts in message {number}"
            raise BadRow(wrong, f"{expected}, got {repr(kind)[:40]}; images and audio are not read")
        for key, value in part.items():
            if key not in ("type", "text") and key not in HARMLESS and not is_empty(value):
                raise BadRow(wrong, f"unknown key {key[:40]!r} in a part of message {number}")
        texts.append(text)
    return "".join(texts)


def _calls(message: Mapping[str, Any], number: int, typed: bool) -> str | None:
    found = {
        key: calls
        for key in ("tool_calls", "function_call")
        if (calls := calls_text(message.get(key), key, number, typed=typed)) is not None
    }
    if len(set(found.values())) > 1:
        raise BadRow("'tool_calls' and 'function_call' differ", f"message {number}")
    return next(iter(found.values()), None)


def _reasoning(message: Mapping[str, Any], number: int) -> str | None:
    found = {key: text for key in REASONING if (text := _string(message, key, number)) is not None}
    if len(set(found.values())) > 1:
        raise BadRow(f"{' and '.join(map(repr, found))} differ", f"message {number}")
    return next(iter(found.values()), None)


def _is_trained(message: Mapping[str, Any], role: str, number: int) -> bool:
    """Return whether an assistant's turn gets labels; True for all others, which never do."""
    wishes = {}
    for key, value in LABELLED.items():
        given = message.get(key)
        if given is None:
            continue
        if not isinstance(given, int | float) or given not in (0, 1):
            shown = "NaN" if isinstance(given, float) and math.isnan(given) else repr(given)[:40]
            detail = f"expected 0 or 1, or a boolean, in message {number}, got {shown}"
            raise BadRow(f"wrong value of {key!r}", detail)
        wishes[key] = given == value
    if len(set(wishes.values())) > 1:
        raise BadRow(f"{' and '.join(map(repr, wishes))} differ", f"message {number}")
    if role == "assistant":
        return all(wishes.values())
    if wishes.get("train") or wishes.get("loss"):
        key = "train" if wishes.get("train") else "loss"
        detail = f"message {number}, role {role}; only the assistant's turns have labels"
        raise BadRow(f"{key!r} asks for labels of another's turn", detail)
    return True


def _refuse_unknown(message: Mapping[str, Any], number: int) -> None:
    for key, value in message.items():
        if key in KNOWN or key in HARMLESS or is_empty(value):
            continue
        if isinstance(key, str) and key.endswith(("_id", "_at")):
            continue
        name = repr(key)[:40]
        detail = f"message {number}; corpus.ignore_keys: [{str(key)[:40]}] leaves it out"
        raise BadRow(f"unknown key {name} in a message", detail)


def _string(message: Mapping[str, Any], key: str, number: int) -> str | None:
    """Return a key's text; None if it is null, absent or blank."""
    found = message.get(key)
    if found is None:
        return None
    if not isinstance(found, str):
        detail = f"expected a string in message {number}, got {kind_of(found)}"
        raise BadRow(f"wrong type of {key!r}", detail)
    return found if found.strip() else None


def _only(role: str, whose: str, number: int, **fields: str | None) -> None:
    for field, value in fields.items():
        if value is not None and role != whose:
            raise BadRow(f"{field!r} in a turn of another role", f"message {number}, role {role}")


def present(row: Mapping[str, Any], field: str, where: str = "") -> Any:
    """Return a field's value; BadRow if it is absent or null."""
    if field not in row:
        raise BadRow(f"missing field {field!r}", where + _found(row))
    if row[field] is None:
        raise BadRow(f"empty field {field!r}", where + "null")
    return row[field]


def is_empty(value: Any) -> bool:
    """Return whether a value carries no content: null, blank or without entries."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, list | dict) and not value)


def _found(row: Mapping[str, Any]) -> str:
    return f"found {listed(list(row))}"
