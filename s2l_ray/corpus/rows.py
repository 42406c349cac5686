"""Rows on their way into the corpus: as read, and what parsing makes of them.

reading.py yields a SourceRow per row of a file, shapes.py makes an Example of its content, and
BadRow says why it cannot. A bad row never stops a run: it is set aside with its reason.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NotRequired, TypedDict


class Turn(TypedDict):
    """One turn of an example, as the store has it (schemas.TURNS). An absent key means null."""

    role: str
    text: str
    reasoning: NotRequired[str | None]
    tool_calls: NotRequired[str | None]
    name: NotRequired[str | None]
    tool_call_id: NotRequired[str | None]
    train: NotRequired[bool | None]


class Example(NamedTuple):
    """What a model is trained on: the turns, and the tools that it may call, as JSON."""

    turns: list[Turn]
    tools: str | None = None


class SourceRow(NamedTuple):
    """One row of a source, as read."""

    number: int  # line, or row if the file has no lines, from 1; 0 in a Ray Dataset
    text: str | None  # as it stands in the file; None if the file is not text
    content: Any  # the parsed row, or the BadRow that says why it cannot be parsed


def text_of(row: SourceRow) -> str:
    """Return the row's text, or its content as JSON if the file is not text."""
    if row.text is not None:
        return row.text
    return json.dumps(row.content, ensure_ascii=False, default=str)


class BadRow(Exception):
    """A row that is not an example, and why.

    category: the kind of fault. It holds no value of the row, so that faults can be counted by it.
    """

    def __init__(self, category: str, detail: str = "") -> None:
        super().__init__(category, detail)
        self.category = category
        self.reason = f"{category}: {detail}" if detail else category
