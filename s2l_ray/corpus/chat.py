"""Chats as pieces of text; the assistant's answers are labels.

The text is what the tokenizer's chat template renders, or its family's template for training. An
answer lies between that template's generation markers. Without markers, it lies between the
rendering of the turns before it and the rendering that includes it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from s2l_ray.corpus.families import TRAINING, training_variant
from s2l_ray.corpus.kept import check_answers, check_prompts
from s2l_ray.corpus.limits import bounded
from s2l_ray.corpus.messages import conversation_of
from s2l_ray.corpus.rendering import Renderings, Span, Template
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.spans import Stops, answers_of, labels_of
from s2l_ray.corpus.templates import Segment, TemplateRefuses

PROBE = "Probe."
SHOWN = 60  # characters of each text where two differ


class Chats:
    """The chat templates of a tokenizer: for chats without tools, and with them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._found: dict[bool, Chat] = {}
        self._compared = set[Any]()

    @property
    def plain(self) -> Chat:
        return self._chat(False)

    def of(self, example: Example) -> Chat:
        return self._chat(example.tools is not None)

    def _chat(self, tools: bool) -> Chat:
        if tools not in self._found:
            self._found[tools] = Chat(self.tokenizer, tools=tools)
        return self._found[tools]

    def segments(self, example: Example) -> list[Segment]:
        return bounded(self.of(example).segments, example)

    def difference(self, example: Example) -> str | None:
        """Return how the tokenizer's own template renders the example differently, if it does.

        Compares one example of each outline: templates look at which turns say what, not at the
        words.
        """
        turns = [
            (turn["role"], bool(turn["text"]), bool(turn.get("reasoning")),
             bool(turn.get("tool_calls")), "</think>" in turn["text"])
            for turn in example.turns
        ]  # fmt: skip
        outline = (example.tools is not None, *turns)
        if outline in self._compared:
            return None
        self._compared.add(outline)
        return bounded(self.of(example).difference, example)


class Chat:
    """One chat template of a tokenizer. own: what prompts follow; labels: what training follows.

    ValueError if there is none, or if the tokenizer lacks the token that ends an answer.
    """

    def __init__(self, tokenizer: Any, *, tools: bool = False) -> None:
        text, self.name = _template_of(tokenizer, tools), tokenizer.name_or_path
        self.eos = tokenizer.special_tokens_map.get("eos_token")
        self.own = Template(text, tokenizer)
        found = None if self.own.marked else training_variant(text)
        self.family = found and found[0]
        self.labels = Template(found[1], tokenizer) if found else self.own
        self.stops = Stops(tokenizer)
        self.closes = self._closes()

    def segments(self, example: Example) -> list[Segment]:
        """Return the example's text in pieces. TemplateRefuses if the template lacks a place."""
        found = self._rendered(example)
        chat, text = found.chat, found.whole.text
        check_prompts(chat, text, prints_tools=not chat.tools or self.prints_tools)
        labels, regions = [], {}
        for answer, spans in answers_of(found, self.stops).items():
            regions[answer] = text[spans[0][0] : spans[-1][1]]
            if answer in chat.trained:
                labels += labels_of(found, self.stops, answer, spans, closes=self.closes)
        check_answers(chat, text, regions, lambda: self.prints_reasoning)
        return self._cut(text, labels) if chat.answers else []

    def prompt(self, example: Example) -> str:
        """Return the text of the turns before the first answer that has labels, and the generation
        prompt of the tokenizer's own template."""
        chat = conversation_of(example)
        return self.own.render(chat, chat.trained[0], prompt=True).text

    def difference(self, example: Example) -> str | None:
        """Return how the tokenizer's own template renders an example differently, if it does."""
        if self.own is self.labels:
            return None
        found = self._rendered(example)
        text = found.whole.text
        try:
            own = self.own.render(found.chat, len(found.chat.messages)).text
        except TemplateRefuses as refusal:
            return str(refusal)
        if own == text:
            return None
        pairs = enumerate(zip(own, text, strict=False))
        at = next((n for n, (one, other) in pairs if one != other), min(len(own), len(text)))
        here, there = (each[max(0, at - 10) : at + SHOWN] for each in (text, own))
        return f"{here!r} instead of {there!r}"

    @property
    def told(self) -> str:
        """A sentence on how the labels are found, and what becomes of earlier reasoning."""
        if self.family:
            name = self.family + TRAINING
            how = f"text and labels follow {name}, the template that trl has for training"
        elif self.labels.marked:
            how = "labels are what the chat template marks as generated"
        else:
            how = "labels are what the chat template adds for an assistant turn"
        if self.prints_reasoning:
            kept = "keeps" if self.keeps_reasoning else "leaves out"
            how += f"; it {kept} the reasoning of earlier turns"
        return how

    def _rendered(self, example: Example) -> Renderings:
        try:
            return Renderings(self.labels, conversation_of(example))
        except TemplateRefuses as error:
            if not isinstance(error.__cause__, TypeError):
                raise
            try:
                return Renderings(self.labels, conversation_of(example, arguments_as_text=True))
            except TemplateRefuses:
                raise error from None

    def _cut(self, text: str, labels: list[Span]) -> list[Segment]:
        pieces, done = [], 0
        for begin, end in labels:
            pieces.append(Segment(text[done:begin], False))
            pieces.append(Segment(text[begin:end] + (self.eos if end > len(text) else ""), True))
            done = end
        pieces.append(Segment(text[done:], False))
        return [piece for piece in pieces if piece.text]

    # -- what the template does with an example of its own

    def _closes(self) -> bool:
        """Say whether the template ends an answer with a token, as far as a short chat tells."""
        try:
            found = Renderings(self.labels, conversation_of(_probe()))
            [[*_, (begin, end)]] = answers_of(found, self.stops).values()
        except TemplateRefuses:
            return True
        text = found.whole.text
        rest = text.rpartition(PROBE)[2].strip()
        if rest and not any(token in rest for token in self.stops.tokens):
            raise ValueError(
                f"the chat template ends an answer with {rest!r}, which is no token of the "
                f"tokenizer {self.name!r}; set prompt.chat_template to one that fits it"
            )
        if not rest and self.eos is None:
            raise ValueError(
                f"the tokenizer {self.name!r} has no end-of-sequence token, and its chat template "
                "ends an answer without a token"
            )
        return self.stops.end(text[begin:end])

    @cached_property
    def prints_reasoning(self) -> bool:
        return self._prints(_probe(reasoning=PROBE * 2), PROBE * 2)

    @cached_property
    def keeps_reasoning(self) -> bool:
        """Whether the reasoning of earlier turns stands in the text."""
        turns = [*_probe(reasoning=PROBE * 2).turns, *_probe().turns]
        return self._prints(Example(turns), PROBE * 2)

    @cached_property
    def prints_tools(self) -> bool:
        tool = '[{"type": "function", "function": {"name": "probe_tool", "description": "Probe.",'
        tool += '"parameters": {"type": "object", "properties": {}}}}]'
        return self._prints(_probe()._replace(tools=tool), "probe_tool")

    def _prints(self, example: Example, text: str) -> bool:
        try:
            return text in Renderings(self.labels, conversation_of(example)).whole.text
        except TemplateRefuses:
            return True  # what it refuses it does not leave out in silence


def _probe(**more: Any) -> Example:
    answer: Any = {"role": "assistant", "text": PROBE} | more
    return Example([{"role": "user", "text": "Probe?"}, answer])


def _template_of(tokenizer: Any, tools: bool) -> str:
    found = tokenizer.chat_template
    if isinstance(found, dict):
        found = (found.get("tool_use") if tools else None) or found.get("default")
    if not found:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set "
            "prompt.chat_template to a file or a family, or use another prompt.template"
        )
    return found
