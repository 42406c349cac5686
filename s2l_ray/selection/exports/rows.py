"""Rows for people and programs at large: Alpaca's, pairs, and OpenAI's messages."""

from __future__ import annotations

import json
from typing import Any

from s2l_ray.corpus.rows import Example, Turn


def export_row(example: Example, shape: str) -> dict[str, Any]:
    """Return an example as a row for other programs: "alpaca", "prompt_response" or "messages".

    In alpaca an input stays a field of its own; elsewhere it follows the prompt after an empty
    line. Messages carry all that a turn has, under the names that OpenAI and the chat templates
    give them; a turn without labels has the weight 0. ValueError if the shape has no place for
    what the example has.
    """
    if shape == "messages":
        row: dict[str, Any] = {"messages": _messages(example.turns)}
        if example.tools is not None:
            row["tools"] = json.loads(example.tools)
        return row
    assert shape in ("alpaca", "prompt_response"), shape
    roles = [turn["role"] for turn in example.turns]
    if roles not in (["user", "assistant"], ["user", "input", "assistant"]):
        raise ValueError(f"a chat with turns {', '.join(roles)} does not fit {shape}; use messages")
    refuse_more_than_text(example, shape, use="messages")
    texts = [turn["text"] for turn in example.turns]
    if shape == "alpaca":
        extra = texts[1] if len(texts) == 3 else ""
        return {"instruction": texts[0], "input": extra, "output": texts[-1]}
    return {"prompt": "\n\n".join(texts[:-1]), "response": texts[-1]}


def refuse_more_than_text(example: Example, name: str, *, use: str) -> None:
    """Raise ValueError if an example has more than roles and texts. use: formats that take it."""
    more = {name for turn in example.turns for name, value in turn.items() if value is not None}
    more -= {"role", "text"}
    if example.tools is not None:
        more.add("tools")
    if more:
        raise ValueError(f"{', '.join(sorted(more))}: {name} has no place for it; use {use}")


def _messages(turns: list[Turn]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if turn["role"] == "input":
            messages[-1]["content"] += "\n\n" + turn["text"]
            continue
        message: dict[str, Any] = {"role": turn["role"], "content": turn["text"]}
        if (reasoning := turn.get("reasoning")) is not None:
            message["reasoning_content"] = reasoning
        if (calls := turn.get("tool_calls")) is not None:
            message["tool_calls"] = json.loads(calls)
        for name in ("name", "tool_call_id"):
            if (value := turn.get(name)) is not None:
                message[name] = value
        if turn.get("train") is False:
            message["weight"] = 0
        messages.append(message)
    return messages
