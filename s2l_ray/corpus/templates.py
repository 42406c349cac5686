"""Prompt templates: from turns to pieces of text, each a prompt piece or a label piece."""

from __future__ import annotations

import re
from typing import NamedTuple

from s2l_ray.config import PromptConfig
from s2l_ray.corpus.messages import without_empty_system
from s2l_ray.corpus.rows import Example, Turn

ONE_TURN = Example([{"role": "user", "text": "a"}, {"role": "assistant", "text": "a"}])

# name: (prompt, prompt for an instruction with an input). The first two are copied from the
# official code (consts.py), with its misspelt heading; it never uses radiology's with an input.
TEMPLATES = {
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:",
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
    ),
    "radiology": (
        "Below are the findings in a radiology report. Write an impression that diagnostically "
        "summarizes the findings.\n\n ### Findings:\n{instruction}\n\n### Inpression:",
        "Below are the findings in a radiology report. Write an impression that diagnostically "
        "summarizes the findings.\n\n ### Findings:\n{instruction}\n{input}\n\n### Inpression:",
    ),
    "plain": ("{instruction}\n", "{instruction}\n{input}\n"),
}


class Segment(NamedTuple):
    """Text, whether its tokens are labels, and whether the end token follows it."""

    text: str
    is_label: bool
    ends: bool = False


class TemplateRefuses(ValueError):
    """The template cannot express an example."""


def segments(example: Example, prompt: PromptConfig) -> list[Segment]:
    """Return the example's text in pieces, with any template but chat.

    TemplateRefuses if the example has what only a chat template can express.
    """
    plain, with_input = (
        (prompt.prompt, prompt.prompt_with_input)
        if prompt.template == "custom"
        else TEMPLATES[prompt.template]
    )
    assert plain is not None
    _check_plain(example, prompt.template)
    turns = without_empty_system(example.turns)
    pieces = []
    for index, turn in enumerate(turns):
        following = turns[index + 1] if index + 1 < len(turns) else None
        if turn["role"] == "system":
            pieces.append(Segment(turn["text"] + "\n\n", False))
        elif turn["role"] == "user":
            extra = following["text"] if following and following["role"] == "input" else None
            pieces.append(Segment(_fill(plain, with_input, turn["text"], extra), False))
        elif turn["role"] == "assistant":
            pieces.append(Segment(turn["text"], turn.get("train") is not False, ends=True))
    return pieces


def _check_plain(example: Example, template: str) -> None:
    found = "tools" if example.tools is not None else None
    for turn in example.turns:
        found = found or _beyond_text(turn)
    if found:
        raise TemplateRefuses(
            f"prompt.template {template} has no place for {found}; use prompt.template chat"
        )


def _beyond_text(turn: Turn) -> str | None:
    if turn["role"] == "tool":
        return "tool turns"
    if turn.get("tool_calls") is not None:
        return "tool_calls"
    return "reasoning_content" if turn.get("reasoning") else None


def _fill(plain: str, with_input: str | None, instruction: str, extra: str | None) -> str:
    values = {"{instruction}": instruction, "{input}": extra or ""}
    template = plain
    if extra is not None and with_input is None:
        values["{instruction}"] += f"\n{extra}"
    elif extra is not None and with_input is not None:
        template = with_input
    # In one pass and without str.format, because texts and template may contain braces.
    return re.sub(r"\{instruction\}|\{input\}", lambda found: values[found[0]], template)
