"""Rows on their way into the corpus: as read, and what parsing makes of them.

reading.py yields a SourceRow per row of a file, shapes.py makes Turns of its content, and BadRow
says why a row has none. A bad row never stops a run: it is set aside with its reason.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

Turns = list[tuple[str, str]]  # (role, text); role: system, user, input or assistant


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
