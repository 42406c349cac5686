"""Whether a chat's text holds all that the chat says: templates leave out what they do not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from s2l_ray.corpus.messages import Conversation
from s2l_ray.corpus.templates import TemplateRefuses


def check_prompts(chat: Conversation, text: str, *, prints_tools: bool) -> None:
    """Raise TemplateRefuses if the text lacks the tools, or a turn that is not the assistant's."""
    if chat.tools is not None and not (prints_tools and _names(chat.tools, text)):
        raise _left_out("the tools")
    for place, message in enumerate(chat.messages):
        if message["role"] != "assistant" and not _within(message["content"], text):
            raise _left_out(f"the text of turn {place + 1} ({message['role']})")


def check_answers(
    chat: Conversation,
    text: str,
    regions: Mapping[int, str],
    prints_reasoning: Callable[[], bool],
) -> None:
    """Raise TemplateRefuses if the text lacks part of an answer.

    regions: the part of the text that each answer is in. The reasoning of earlier answers may be
    left out, if the template prints reasoning at all: that is how its family is trained.
    """
    for place in chat.answers:
        message, where = chat.messages[place], regions.get(place, text)
        thought, said = _thought_and_said(message)
        if not _within(said, where):
            raise _left_out(f"the text of turn {place + 1} (assistant)")
        earlier = place != chat.answers[-1]
        if thought and not _within(thought, where) and not (earlier and prints_reasoning()):
            raise _left_out(f"the reasoning_content of turn {place + 1}")
        for name, count, values in _calls(message):
            if where.count(name) < count or not all(_within(value, where) for value in values):
                raise _left_out(f"the tool_calls of turn {place + 1}")


def _left_out(what: str) -> TemplateRefuses:
    return TemplateRefuses(
        f"the chat template leaves out {what}; prompt.chat_template may name one that prints it"
    )


def _thought_and_said(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return reasoning and text; templates take the one from the other at a tag."""
    said, thought = message["content"], message.get("reasoning_content") or ""
    if not thought and "</think>" in said:
        thought, _, said = said.rpartition("</think>")
        thought = thought.rpartition("<think>")[2]
    return thought, said


def _within(said: str, text: str) -> bool:
    """Say whether the text has what is said, bare or as a JSON string."""
    said = said.strip()
    return said in text or json.dumps(said, ensure_ascii=False)[1:-1] in text


def _names(tools: list[Any], text: str) -> bool:
    found = [tool.get("function", tool).get("name") for tool in tools if isinstance(tool, dict)]
    return all(name in text for name in found if isinstance(name, str))


def _calls(message: Mapping[str, Any]) -> Iterator[tuple[str, int, list[str]]]:
    """Yield the function of each call, how many calls have it, and the values of the arguments."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    names = [str(call["name"]) for call in calls]
    for name, call in zip(names, calls, strict=True):
        yield name, names.count(name), list(_leaves(call.get("arguments")))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)
