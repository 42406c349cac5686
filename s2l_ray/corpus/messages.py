"""From an example to the messages and tools that chat templates take."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from s2l_ray.corpus.rows import Example, Turn, is_too_deep


class Conversation(NamedTuple):
    """messages: as chat templates take them. answers: the places of the assistant's among them;
    trained: of those that have labels."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    answers: list[int]
    trained: list[int]


def without_empty_system(turns: list[Turn]) -> list[Turn]:
    """Return the turns but for system turns without text, which say nothing."""
    return [turn for turn in turns if turn["role"] != "system" or turn["text"].strip()]


def conversation_of(example: Example, *, arguments_as_text: bool = False) -> Conversation:
    """Return an example as messages. An input joins the user's turn before it.

    arguments_as_text: for templates that join the arguments of a call to other text. Most take
    objects.
    """
    messages: list[dict[str, Any]] = []
    trained = []
    for turn in without_empty_system(example.turns):
        if turn["role"] == "input":
            before = messages[-1]["content"]
            messages[-1] = {**messages[-1], "content": f"{before}\n\n{turn['text']}"}
            continue
        message: dict[str, Any] = {"role": turn["role"], "content": turn["text"]}
        if turn.get("reasoning") is not None:
            message["reasoning_content"] = turn["reasoning"]
        if turn.get("tool_calls") is not None:
            calls = json.loads(turn["tool_calls"] or "[]")
            message["tool_calls"] = [_call(call, arguments_as_text) for call in calls]
        for name in ("name", "tool_call_id"):
            if turn.get(name) is not None:
                message[name] = turn[name]
        # An assistant's turn that opens the chat answers nothing.
        if turn["role"] == "assistant" and messages and turn.get("train") is not False:
            trained.append(len(messages))
        messages.append(message)
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    tools = None if example.tools is None else [_tool(tool) for tool in json.loads(example.tools)]
    return Conversation(messages, tools or None, answers, trained)


def _call(call: dict[str, Any], as_text: bool) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str) and not as_text:
        try:
            found = json.loads(arguments or "{}")
        except (ValueError, RecursionError):  # the model wrote something else: it stays as it is
            found = None
        if isinstance(found, dict) and not is_too_deep(found):
            function["arguments"] = found
    elif arguments is not None and not isinstance(arguments, str) and as_text:
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {"type": "function"} | call | {"function": function}


def _tool(tool: Any) -> Any:
    """Nest a tool that is given as its function alone, as templates expect it."""
    if isinstance(tool, dict) and "function" not in tool and "name" in tool:
        return {"type": "function", "function": tool}
    return tool
