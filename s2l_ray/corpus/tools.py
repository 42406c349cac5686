"""Tools and calls of tools, as rows have them and as the store has them. Pure functions, no I/O.

The store has JSON texts: of a row's tools, and of a turn's calls as OpenAI nests them,
[{"id", "type": "function", "function": {"name", "arguments"}}], the id optional. The order of keys,
and whether the arguments are a string or an object, stay as the row has them.
"""

from __future__ import annotations

import json
from typing import Any

from s2l_ray.corpus.rows import DECODER, BadRow, kind_of

CALL_KEYS = {"id", "type", "function", "index"}  # index: a place in a streamed answer


def tools_text(given: Any, column: str, *, typed: bool) -> str | None:
    """Return a row's tools as the store has them; None if there are none.

    typed: the row comes from Arrow, whose structs have all keys that any row has. A null there is
    an absent key.
    """
    tools = _decoded(given, repr(column))
    if tools is None or tools == []:
        return None
    wrong = f"wrong type of {column!r}"
    if not isinstance(tools, list):
        raise BadRow(wrong, f"expected a list of tools, got {kind_of(tools)}")
    found = []
    for number, tool in enumerate(tools, 1):
        tool = _without_nulls(_decoded(tool, repr(column)), typed)
        if not isinstance(tool, dict):
            raise BadRow(wrong, f"expected an object as tool {number}, got {kind_of(tool)}")
        if "function" not in tool and isinstance(tool.get("name"), str) and "type" not in tool:
            tool = {"type": "function", "function": tool}
        found.append(tool)
    return _text(found)


def calls_text(given: Any, field: str, number: int, *, typed: bool) -> str | None:
    """Return the calls of message `number` as the store has them; None if there are none.

    given: a list of calls, one call, or the JSON text of either. A call may be flat, with its name
    and arguments beside its id.
    """
    calls = _decoded(given, f"{field!r} in message {number}")
    if calls is None or calls == []:
        return None
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        call = _decoded(call, f"{field!r} in message {number}")
        found.append(_call(_without_nulls(call, typed), field, number))
    return _text(found)


def _call(call: Any, field: str, number: int) -> dict[str, Any]:
    wrong, where = f"wrong type of {field!r}", f"in message {number}"
    if not isinstance(call, dict):
        raise BadRow(wrong, f"expected an object as a call {where}, got {kind_of(call)}")
    if call.get("type") not in (None, "function"):
        kind = str(call["type"])[:40]
        raise BadRow(wrong, f"expected a call of a function {where}, got {kind!r}")
    function = call.get("function")
    if function is None:
        function = {key: value for key, value in call.items() if key not in CALL_KEYS}
        more = set[str]()
    else:
        more = {key for key, value in call.items() if value is not None} - CALL_KEYS
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(wrong, f"expected a call with the name of a function {where}")
    if not isinstance(function.get("arguments"), str | dict):
        got = kind_of(function.get("arguments"))
        raise BadRow(wrong, f"expected arguments as an object or JSON text {where}, got {got}")
    more |= {key for key, value in function.items() if value is not None} - {"name", "arguments"}
    if more:
        raise BadRow(f"unknown key in {field!r}", f"{min(map(str, more))[:40]!r} {where}")
    named = {key: function[key] for key in function if key in ("name", "arguments")}
    own = {} if call.get("id") is None else {"id": call["id"]}
    return own | {"type": "function", "function": named}


def _decoded(given: Any, what: str) -> Any:
    """Return the value of a JSON text; anything else, and a blank text (None), as it is."""
    if not isinstance(given, str):
        return given
    if not given.strip():
        return None
    try:
        return DECODER.decode(given.strip())
    except ValueError as error:
        raise BadRow("not JSON", f"{what}: {error}") from None


def _without_nulls(value: Any, typed: bool) -> Any:
    if not typed:
        return value
    if isinstance(value, dict):
        return {key: _without_nulls(each, typed) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each, typed) for each in value]
    return value


def _text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadRow("not JSON", f"a tool or a call: {error}") from None
