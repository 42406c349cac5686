"""Prompt templates: from turns to pieces of text, each a prompt piece or a label piece."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2

from s2l_ray.config import PromptConfig

TODAY = datetime(2024, 7, 26)  # what templates write as the date, so that tokens stay the same
Turn = dict[str, str]  # role and text, as the store has them
Segment = tuple[str, bool]  # text, and whether its tokens are labels
ONE_TURN = [{"role": "user", "text": "a"}, {"role": "assistant", "text": "a"}]

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


def segments(turns: list[Turn], prompt: PromptConfig, tokenizer: Any) -> list[Segment]:
    """Return the example's text in pieces, each a prompt piece or a label piece.

    With the chat template, a label piece is what the template adds for an assistant turn, end
    marker included. With the other templates, `encode` adds the end token to each response.
    TemplateRefuses if the chat template cannot express the turns.
    """
    if prompt.template == "chat":
        return _chat_segments(turns, tokenizer)
    plain, with_input = (
        (prompt.prompt, prompt.prompt_with_input)
        if prompt.template == "custom"
        else TEMPLATES[prompt.template]
    )
    assert plain is not None
    pieces: list[Segment] = []
    for index, turn in enumerate(turns):
        following = turns[index + 1] if index + 1 < len(turns) else None
        if turn["role"] == "system":
            pieces.append((turn["text"] + "\n\n", False))
        elif turn["role"] == "user":
            extra = following["text"] if following and following["role"] == "input" else None
            pieces.append((_fill(plain, with_input, turn["text"], extra), False))
        elif turn["role"] == "assistant":
            pieces.append((turn["text"], True))
    return pieces


class TemplateRefuses(ValueError):
    """The tokenizer's chat template cannot express the turns of an example."""


def _fill(plain: str, with_input: str | None, instruction: str, extra: str | None) -> str:
    values = {"{instruction}": instruction, "{input}": extra or ""}
    template = plain
    if extra is not None and with_input is None:
        values["{instruction}"] += f"\n{extra}"
    elif extra is not None and with_input is not None:
        template = with_input
    # In one pass and without str.format, because texts and template may contain braces.
    return re.sub(r"\{instruction\}|\{input\}", lambda found: values[found[0]], template)


@lru_cache
def _dated(template: str) -> str:
    """Put TODAY in place of a chat template's calls for the current time."""
    ask = r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)"""
    return re.sub(ask, lambda found: repr(TODAY.strftime(found[2])), template)


def _chat_segments(turns: list[Turn], tokenizer: Any) -> list[Segment]:
    messages: list[dict[str, str]] = []
    for turn in turns:
        if turn["role"] == "input":
            messages[-1] = {
                "role": "user",
                "content": f"{messages[-1]['content']}\n\n{turn['text']}",
            }
        else:
            messages.append({"role": turn["role"], "content": turn["text"]})

    template = _dated(tokenizer.get_chat_template())

    def render(count: int, **options: Any) -> str:
        try:
            return tokenizer.apply_chat_template(
                messages[:count],
                tokenize=False,
                chat_template=template,
                date_string=TODAY.strftime("%d %b %Y"),
                **options,
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(message["role"] for message in messages[:count])
            raise TemplateRefuses(f"the chat template refuses the turns {roles}: {error}") from None

    pieces: list[Segment] = []
    written = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0:  # a first turn answers nothing
            continue
        before = render(index, add_generation_prompt=True)
        after = render(index + 1)
        end = tokenizer.eos_token or ""
        if end and written.endswith(end) and not before.startswith(written):
            # The template ended the whole text (Phi), but more turns follow.
            written = written.removesuffix(end)
            pieces[-1] = (pieces[-1][0].removesuffix(end), True)
        why = "rewrites earlier turns"
        if before.startswith(written) and after.startswith(render(index)):
            why = "begins a new answer differently from a given one"
        if not before.startswith(written) or not after.startswith(before):
            raise TemplateRefuses(
                f"the tokenizer's chat template {why}, which hides the label tokens of an "
                "assistant turn; use another prompt.template"
            )
        pieces += [(before[len(written) :], False), (after[len(before) :], True)]
        written = after
    return pieces
