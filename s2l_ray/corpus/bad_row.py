"""What parsing a row yields: turns, a record, or the reason for rejecting it."""

from __future__ import annotations

from typing import Any

Turns = list[tuple[str, str]]  # (role, text)


Record = tuple[int, str | None, Any]  # row number, raw text if there is one, content or BadRow


class BadRow(Exception):
    """A row that is no example. The category holds no value of the row, so it can be counted."""

    def __init__(self, category: str, detail: str = "") -> None:
        super().__init__(category, detail)
        self.category = category
        self.reason = f"{category}: {detail}" if detail else category
