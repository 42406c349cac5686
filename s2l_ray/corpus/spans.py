"""Where the answers are in the text of a chat, and which of their characters are labels."""

from __future__ import annotations

import re
from typing import Any

from s2l_ray.corpus.rendering import Renderings, Span
from s2l_ray.corpus.templates import TemplateRefuses

OPENED = re.compile(r"<think>\s*(</think>\s*)?$")  # how a prompt may ask for reasoning, or for none
EMPTY = re.compile(r"\n*(<think>\s*</think>|<\|channel>thought\s*<channel\|>)\n*")


class Stops:
    """The tokens that may end a turn: those added to the vocabulary, closing tags apart."""

    def __init__(self, tokenizer: Any) -> None:
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        found = {token for token in added if token.strip() and not token.startswith(("</", "[/"))}
        found |= added & {"</s>", tokenizer.special_tokens_map.get("eos_token")}
        self.tokens = tuple(sorted(found, key=len, reverse=True))
        self._next = re.compile(r"\s*(" + "|".join(map(re.escape, self.tokens)) + ")")

    def end(self, text: str) -> bool:
        return text.rstrip().endswith(self.tokens)

    def cut(self, text: str) -> str:
        """Return the text without the token that ends it, if one does."""
        text = text.rstrip()
        return text.removesuffix(next(filter(text.endswith, self.tokens), ""))

    def after(self, text: str, place: int) -> int | None:
        """Return where the token ends that follows a place, or None if other text follows."""
        found = self._next.match(text, place) if self.tokens else None
        return found and found.end()


def answers_of(found: Renderings, stops: Stops) -> dict[int, list[Span]]:
    """Return the places of each answer: between markers, or what the template adds for it.

    What others say in the middle of an answer, such as a tool, lies between two places.
    """
    chat, whole = found.chat, found.whole
    if not found.template.marked:
        return {answer: [_between(found, stops, answer)] for answer in chat.answers if answer}
    places: dict[int, list[Span]] = {}
    for answer, (first, end) in zip(_owners(found), whole.spans, strict=True):
        spans = places.setdefault(answer, [])
        if spans and spans[-1][1] == first:
            first = spans.pop()[0]
        if end > first or not spans:
            spans.append((first, end))
    return places


def _owners(found: Renderings) -> list[int]:
    """Return the answer that each span is of."""
    chat, whole = found.chat, found.whole
    if len(whole.spans) == len(chat.answers):
        return chat.answers
    # Some templates have several spans an answer: see which of them a sign in the text is in.
    signs = {n: chr(0xE000 + place) for place, n in enumerate(chat.answers)}
    signed = [
        message | {"content": message["content"] + signs[n]} if n in signs else message
        for n, message in enumerate(chat.messages)
    ]
    text, spans = found.template.render(chat._replace(messages=signed), len(signed))
    if len(spans) != len(whole.spans):
        raise TemplateRefuses("the chat template's generation markers depend on the texts")
    owners: list[int] = []
    for first, end in spans:
        # What follows a text, such as an end token, is of the same answer.
        before = owners[-1] if owners else chat.answers[0]
        owners.append(next((n for n, sign in signs.items() if sign in text[first:end]), before))
    return owners


def _between(found: Renderings, stops: Stops, answer: int) -> Span:
    """Return what the template adds for an answer, by its renderings without and with it."""
    text, before = found.whole.text, found.up_to(answer, prompt=True)
    after = found.up_to(answer + 1)
    begin = next((len(b) for b in (before, OPENED.sub("", before)) if text.startswith(b)), None)
    why = "rewrites earlier turns"
    if begin is not None:
        # The end of the whole text (Phi) or of the last answer (gpt-oss) may differ.
        for end in (after, stops.cut(after)):
            if begin <= len(end) and text.startswith(end):
                return begin, len(end)
    elif text.startswith(found.up_to(answer)):
        why = "begins a new answer differently from a given one"
    raise TemplateRefuses(
        f"the chat template {why}, which hides the label tokens of turn {answer + 1}; use another "
        "prompt.template or prompt.chat_template"
    )


def labels_of(
    found: Renderings, stops: Stops, answer: int, spans: list[Span], *, closes: bool
) -> list[Span]:
    """Return which characters of an answer are labels.

    They begin after the generation prompt, which the model is given, and after an empty think
    block. They end after the end-of-turn token, or one beyond a text that ends without.
    closes: whether the template ends answers with a token.
    """
    first, last = spans[0], spans[-1]
    begin = _begin(found, answer, first)
    closed = closes and stops.end(found.whole.text[max(begin, last[0]) : last[1]])
    end = last[1] if closed else _end(stops, found.whole.text, answer, last[1])
    if len(spans) == 1:
        return [(begin, end)]
    return [(begin, first[1]), *spans[1:-1], (last[0], end)]


def _begin(found: Renderings, answer: int, span: Span) -> int:
    text, (first, end) = found.whole.text, span
    before = found.up_to(answer, prompt=True)
    bare = OPENED.sub("", before)
    place = 0
    if not text.startswith(bare):
        # An earlier turn is rendered differently: look for the generation prompt alone.
        shared = len(found.up_to(answer))
        before, bare = before[shared:], bare[shared:]
        places = range(max(0, first - len(bare)), first + 1)
        where = next((p for p in places if text.startswith(bare, p)), None)
        if not bare or where is None:
            return first
        place = where
    begin = max(first, place + len(bare))
    empty = EMPTY.match(text, begin, end)
    if text.startswith(before, place):
        begin = max(begin, place + len(before))
    return max(begin, empty.end()) if empty else begin


def _end(stops: Stops, text: str, answer: int, end: int) -> int:
    if (after := stops.after(text, end)) is not None:
        return after
    if not text[end:].strip():
        return len(text) + 1
    raise TemplateRefuses(
        f"the chat template puts no end-of-turn token after the assistant's turn {answer + 1}"
    )
