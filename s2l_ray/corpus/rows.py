"""Rows on their way into the corpus: as read, and what parsing makes of them.

reading.py yields the rows of a file, one by one or in batches. shapes.py makes an Example of a
row's content, and BadRow says why it cannot; regular.py does so for plain rows together. A bad row
never stops a run: it is set aside with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict

import numpy as np
import pyarrow as pa

from s2l_ray.formatting import printable


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


def texts_of(example: Example) -> Iterator[tuple[str, str]]:
    """Yield all text that an example has, in order, with what it is: a role, or a field."""
    if example.tools is not None:
        yield "tools", example.tools
    for turn in example.turns:
        fields: Mapping[str, Any] = turn
        for name in ("name", "tool_call_id", "reasoning"):
            if (value := fields.get(name)) is not None:
                yield name, value
        yield turn["role"], turn["text"]
        if (calls := fields.get("tool_calls")) is not None:
            yield "tool_calls", calls


KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def kind_of(value: Any) -> str:
    """Return a JSON value's type in words."""
    return KINDS.get(type(value), type(value).__name__)


class SourceRow(NamedTuple):
    """One row of a source, as read."""

    number: int  # line, or row if the file has no lines, from 1; 0 in a Ray Dataset
    text: str | None  # as it stands in the file; None if the file is not text
    content: Any  # the parsed row, or the BadRow that says why it cannot be parsed
    typed: bool = False  # from Arrow, whose structs have all keys that any row has


class Batch(Protocol):
    """Successive rows of a source, which can be read one by one, or by columns."""

    @property
    def typed(self) -> bool:
        """See SourceRow. All rows have all columns then."""

    def table(self) -> pa.RecordBatch | None:
        """Return the rows by column, an absent value as null.

        None unless that is certainly what `rows` yields too.
        """

    def numbers(self, index: np.ndarray) -> np.ndarray:
        """Return the numbers of the rows at these places in the table."""

    def rows(self, index: Sequence[int] | None = None) -> Iterator[SourceRow]:
        """Yield all rows, or those at these places in the table."""


def one_by_one(rows: Iterable[SourceRow | Batch]) -> Iterator[SourceRow]:
    """Yield the rows, also those of batches."""
    for row in rows:
        if isinstance(row, SourceRow):
            yield row
        else:
            yield from row.rows()


def text_of(row: SourceRow) -> str:
    """Return the row's text, or its content as JSON if the file is not text."""
    if row.text is not None:
        return row.text
    return json.dumps(row.content, ensure_ascii=False, default=str)


LONGEST_REASON = 1000  # characters; a reason may name a column, which a stranger has named


class BadRow(Exception):
    """A row that is not an example, and why.

    category: the kind of fault. It holds no value of the row, so that faults can be counted by it.
    """

    def __init__(self, category: str, detail: str = "") -> None:
        super().__init__(category, detail)
        self.category = printable(category[:LONGEST_REASON])
        self.reason = printable((f"{category}: {detail}" if detail else category)[:LONGEST_REASON])


MAX_COLUMNS = 1000  # of a row
MAX_DEPTH = 100  # lists and objects inside one another; what reads a row calls itself as often


def check_columns(row: dict[str, Any]) -> None:
    """Raise BadRow if a row has too many columns."""
    if len(row) > MAX_COLUMNS:
        raise BadRow("too many columns", f"{len(row):,}; the limit is {MAX_COLUMNS:,}")


def is_too_deep(value: Any) -> bool:
    """Return whether a JSON value has more than MAX_DEPTH lists and objects inside one another."""
    level, depth = [value], 0
    while level := [
        inner
        for each in level
        if isinstance(each, dict | list)
        for inner in (each.values() if isinstance(each, dict) else each)
    ]:
        depth += 1
        if depth > MAX_DEPTH:
            return True
    return False


def _too_deep() -> BadRow:
    return BadRow("nested too deep", f"the limit is {MAX_DEPTH} lists and objects")


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that is there twice; None if each is there once."""
    seen = set[str]()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; refuse a repeated key: Python would silently keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = first_repeated(name for name, _ in pairs)
        assert twice is not None
        raise BadRow("duplicate key", repr(twice[:40]))
    return found


class _Decoder(json.JSONDecoder):
    """Raises BadRow for what is JSON, but no row: repeated keys, too deep a value."""

    def decode(self, s: str, *args: Any) -> Any:
        try:
            value = super().decode(s, *args)
        except RecursionError:
            raise _too_deep() from None
        if is_too_deep(value):
            raise _too_deep()
        return value


DECODER = _Decoder(object_pairs_hook=_unique_keys)
