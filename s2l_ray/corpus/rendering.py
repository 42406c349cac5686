"""A chat template, rendered: the whole text, and what its generation markers enclose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from s2l_ray.corpus.limits import bounded
from s2l_ray.corpus.messages import Conversation
from s2l_ray.corpus.templates import TemplateRefuses

TODAY = datetime(2024, 7, 26)  # what templates write as the date, so that tokens stay the same
MARKERS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
CHARACTERS = 2**26  # of a rendering, at most
LONGEST = 2**20  # characters of a template
SHOWN = 200  # characters of what a template says that refuses

Span = tuple[int, int]  # first character, and the one after the last


class Rendered(NamedTuple):
    """The text of a conversation. spans: what stands between generation markers, in order."""

    text: str
    spans: list[Span]


class Template:
    """The text of a chat template, with what a tokenizer gives it."""

    def __init__(self, text: str, tokenizer: Any) -> None:
        if len(text) > LONGEST:
            raise ValueError(
                f"the chat template has {len(text):,} characters; expected at most {LONGEST:,}: "
                "prompt.chat_template may name another"
            )
        _refuse_powers(text)
        self.text = _dated(text)
        self.marked = MARKERS.search(text) is not None
        self.given = tokenizer.special_tokens_map | {"date_string": TODAY.strftime("%d %b %Y")}

    def render(self, chat: Conversation, count: int, *, prompt: bool = False) -> Rendered:
        """Render the first `count` messages; with `prompt`, up to the answer to come.

        TemplateRefuses if the template raises an error or takes too long (limits.py).
        """
        return bounded(self._render, chat, count, prompt)

    def _render(self, chat: Conversation, count: int, prompt: bool) -> Rendered:
        messages = chat.messages[:count]
        try:
            [text], spans = render_jinja_template(
                conversations=[messages],
                tools=chat.tools,
                chat_template=self.text,
                return_assistant_tokens_mask=self.marked,
                add_generation_prompt=prompt,
                **self.given,
            )
        except MemoryError:
            raise
        except Exception as error:  # whatever a template makes Python or Jinja raise
            raise _refusal(messages, error) from error
        if len(text) > CHARACTERS:
            raise TemplateRefuses(
                f"the chat template turns this example into {len(text):,} characters; the limit is "
                f"{CHARACTERS:,}"
            )
        return Rendered(text, spans[0] if spans else [])


class Renderings:
    """A chat as a template renders it, up to any of its turns, each once.

    TemplateRefuses if the template refuses the whole chat.
    """

    def __init__(self, template: Template, chat: Conversation) -> None:
        self.template, self.chat = template, chat
        self.whole = template.render(chat, len(chat.messages))
        self._found = {(len(chat.messages), False): self.whole.text}

    def up_to(self, count: int, *, prompt: bool = False) -> str:
        """Return the text of the first `count` messages, with `prompt` up to the next answer."""
        if (count, prompt) not in self._found:
            self._found[count, prompt] = self.template.render(self.chat, count, prompt=prompt).text
        return self._found[count, prompt]


def _refusal(messages: Sequence[dict[str, Any]], error: Exception) -> TemplateRefuses:
    roles = [message["role"] for message in messages]
    more = f" and {len(roles) - 20:,} more" if len(roles) > 20 else ""
    told = f"{', '.join(roles[:20])}{more}: {str(error)[:SHOWN]}"
    return TemplateRefuses(f"the chat template refuses the turns {told}")


@lru_cache
def _refuse_powers(template: str) -> None:
    """Raise ValueError if a template raises to a power: one such operation can take hours, and
    nothing interrupts it."""
    try:
        tokens = [token for _, kind, token in jinja2.Environment().lex(template)
                  if kind != "whitespace"]  # fmt: skip
    except jinja2.TemplateError:  # rendering says so
        return
    # After ( or a comma ** stands for named arguments.
    if any(token == "**" and before not in ("(", ",") for before, token in pairwise(tokens)):
        raise ValueError(
            "the chat template uses the operator **; expected one without: prompt.chat_template "
            "may name another"
        )


@lru_cache
def _dated(template: str) -> str:
    """Put TODAY in place of a chat template's calls for the current time."""
    ask = r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)"""
    return re.sub(ask, lambda found: repr(TODAY.strftime(found[2])), template)
