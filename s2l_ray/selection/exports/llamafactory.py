"""Rows as LLaMA-Factory takes them, and its dataset_info.json. Pure functions, no I/O.

Every value is a string, also an empty one: `datasets` guesses the type of a column from the first
rows of a file, and would take a column of nulls for one that is never anything else.
"""

from __future__ import annotations

import json
from typing import Any

from s2l_ray.corpus.messages import Conversation, conversation_of
from s2l_ray.corpus.rows import Example
from s2l_ray.selection.exports.rows import refuse_more_than_text

ASKS, ANSWERS = ("human", "observation"), ("gpt", "function_call")
INSTEAD = "use trl_messages or axolotl"
INFO = {
    "llamafactory_alpaca": {
        "formatting": "alpaca",
        "columns": {
            "prompt": "instruction", "query": "input", "response": "output", "system": "system",
        },
    },
    "llamafactory_sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
        "tags": {
            "role_tag": "from", "content_tag": "value", "user_tag": "human",
            "assistant_tag": "gpt", "observation_tag": "observation",
            "function_tag": "function_call", "system_tag": "system",
        },
    },
}  # fmt: skip


def dataset_info(name: str) -> str:
    """Return dataset_info.json for the export of that name, whose files are in data/."""
    known_as = f"s2l_{name.removeprefix('llamafactory_')}"
    return json.dumps({known_as: {"file_name": "data"} | INFO[name]}, indent=2)


def alpaca(example: Example) -> dict[str, Any]:
    """Return {"instruction", "input", "output", "system"}. LLaMA-Factory puts a line break between
    instruction and input."""
    roles = [turn["role"] for turn in example.turns]
    texts = [turn["text"] for turn in example.turns]
    system = texts.pop(0) if roles[:1] == ["system"] else ""
    if roles[-len(texts) :] not in (["user", "assistant"], ["user", "input", "assistant"]):
        raise ValueError(
            f"a chat with turns {', '.join(roles)} does not fit llamafactory_alpaca; use "
            f"llamafactory_sharegpt"
        )
    refuse_more_than_text(example, "llamafactory_alpaca", use="llamafactory_sharegpt or axolotl")
    extra = texts[1] if len(texts) == 3 else ""
    return {"instruction": texts[0], "input": extra, "output": texts[-1], "system": system}


def sharegpt(example: Example) -> dict[str, Any]:
    """Return {"conversations": [{"from", "value"}], "system", "tools"}, the tools as JSON text.

    What joins a call to its result, the ids and the names, is left to the order of the turns.
    """
    name, chat = "llamafactory_sharegpt", conversation_of(example)
    if any(message.get("reasoning_content") for message in chat.messages):
        raise ValueError(f"reasoning_content: {name} has no place for it; {INSTEAD}")
    if any(message.get("name") for message in chat.messages if message["role"] != "tool"):
        raise ValueError(f"name: {name} has no place for a speaker's name; {INSTEAD}")
    if chat.trained != chat.answers:
        raise ValueError(
            f"{len(chat.answers) - len(chat.trained)} of {len(chat.answers)} assistant turns have "
            f"no labels, and {name} cannot say so; use axolotl"
        )
    messages = list(chat.messages)
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    turns = [_turn(message, name) for message in messages]
    for place, turn in enumerate(turns):
        if turn["from"] not in (ASKS, ANSWERS)[place % 2] or len(turns) % 2:
            roles = ", ".join(message["role"] for message in chat.messages)
            raise ValueError(
                f"a chat with turns {roles} does not fit {name}, where questions or results of "
                f"tools and answers alternate; {INSTEAD}"
            )
    return {"conversations": turns, "system": system, "tools": _tools(chat)}


def _turn(message: dict[str, Any], name: str) -> dict[str, str]:
    role, content = message["role"], message["content"]
    if not message.get("tool_calls"):
        known = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
        return {"from": known[role], "value": content}
    if content.strip():
        raise ValueError(
            f"an assistant turn with text and tool_calls: {name} has no place for both; {INSTEAD}"
        )
    calls = [call["function"] for call in message["tool_calls"]]
    found = [{"name": call["name"], "arguments": call["arguments"]} for call in calls]
    if any(not isinstance(call["arguments"], dict) for call in found):
        raise ValueError(f"arguments of a call: {name} needs a JSON object")
    shown = found[0] if len(found) == 1 else found
    return {"from": "function_call", "value": json.dumps(shown, ensure_ascii=False)}


def _tools(chat: Conversation) -> str:
    return json.dumps(chat.tools, ensure_ascii=False) if chat.tools else ""
