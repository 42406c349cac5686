"""Rows as TRL's SFTTrainer takes them. Pure functions, no I/O.

Messages have the form that chat templates take: arguments of calls as objects, tools nested.
"""

from __future__ import annotations

from typing import Any

from s2l_ray.config import PromptConfig
from s2l_ray.corpus.messages import conversation_of, without_empty_system
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.templates import segments
from s2l_ray.selection.exports.rows import refuse_more_than_text

PLAIN = PromptConfig(template="plain")


def messages(example: Example) -> dict[str, Any]:
    """Return {"messages", "tools"}. SFTTrainer with assistant_only_loss learns every answer."""
    chat = conversation_of(example)
    if chat.trained != chat.answers:
        raise ValueError(
            f"{len(chat.answers) - len(chat.trained)} of {len(chat.answers)} assistant turns have "
            f"no labels, and trl_messages cannot say so; use axolotl, or "
            f"trl_prompt_completion_messages if only the last turn has labels"
        )
    return {"messages": chat.messages, "tools": chat.tools}


def prompt_completion_messages(example: Example) -> dict[str, Any]:
    """Return {"prompt", "completion", "tools"}: the last message is the completion."""
    chat = conversation_of(example)
    last = len(chat.messages) - 1
    if chat.trained != [last]:
        which = f"{len(chat.trained)} turns with labels" if chat.trained else "no turn with labels"
        if len(chat.trained) == 1:
            which = "labels in another turn than the last"
        raise ValueError(
            f"a chat with {which}: trl_prompt_completion_messages learns the last turn alone; use "
            f"trl_messages if every assistant turn has labels, else axolotl"
        )
    prompt, completion = chat.messages[:last], chat.messages[last:]
    return {"prompt": prompt, "completion": completion, "tools": chat.tools}


def prompt_completion(example: Example) -> dict[str, Any]:
    """Return {"prompt", "completion"} as text, the prompt in the template `plain`."""
    roles = [turn["role"] for turn in without_empty_system(example.turns)]
    if roles.count("assistant") != 1 or roles[-1] != "assistant":
        raise ValueError(
            f"a chat with turns {', '.join(roles)} does not fit trl_prompt_completion; use "
            f"trl_messages"
        )
    refuse_more_than_text(example, "trl_prompt_completion", use="trl_messages")
    *before, answer = segments(example, PLAIN)
    return {"prompt": "".join(piece.text for piece in before), "completion": answer.text}
