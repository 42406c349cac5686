"""Which columns of a file hold what: detected from their names, or given by corpus.columns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PAIRS = [  # prompt and response columns, in order of preference
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
]

INPUTS = ["input", "context"]  # optional, beside a pair: what the prompt is about
SYSTEMS = ["system", "system_prompt"]  # optional, beside a pair: what precedes the prompt
CHATS = ["messages", "conversations"]  # OpenAI's and ShareGPT's; preferred to pairs


@dataclass(frozen=True)
class Columns:
    """The columns of a file: either `messages`, or `instruction` and `output`.

    `input` and `system` may go with a pair, `source` with both.
    """

    instruction: str | None = None
    output: str | None = None
    input: str | None = None
    messages: str | None = None
    source: str | None = None
    system: str | None = None


def detect(rows: Sequence[Iterable[str]], given: Mapping[Any, str | None], file: str) -> Columns:
    """Choose the columns to read in a file from the column names of its first rows.

    `given` (corpus.columns) takes precedence. ValueError if it names a column that is not there,
    or if the names match no known shape.
    """
    names = [set(row) for row in rows]
    union = sorted(set().union(*names))
    source = given.get("source", "source")
    own = {field: column for field, column in given.items() if column is not None}
    for field, column in own.items():
        if column not in union:
            near = difflib.get_close_matches(column, union, n=1, cutoff=0.4)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(
                f"{file}: corpus.columns.{field}: no column {column!r}; found {listed(union)}{hint}"
            )
    if "messages" in own:
        if own.keys() & {"instruction", "input", "output"}:
            others = listed(sorted(own.keys() - {"messages", "source"}))
            raise ValueError(
                f"{file}: corpus.columns: expected either messages or a pair, got messages and "
                f"{others}"
            )
        return Columns(messages=own["messages"], source=source)
    if "instruction" in own or "output" in own:
        pairs = [(own.get("instruction", a), own.get("output", b)) for a, b in PAIRS]
        shapes: list[tuple[str, ...]] = [*dict.fromkeys(pairs)]
    else:
        shapes = [*((chat,) for chat in CHATS if "input" not in own), *PAIRS]
    whole = (s for row in names for s in shapes if row.issuperset(s))
    some = (s for row in names for s in shapes if row.intersection(s))  # rows will be rejected
    shape = next(whole, None) or next(some, None)
    if shape is None:
        raise ValueError(
            f"{file}: no columns of a known shape: found {listed(union)}; expected "
            f"{' or '.join([*CHATS, *map(' and '.join, PAIRS)])}, or set corpus.columns"
        )
    if len(shape) == 1:
        return Columns(messages=shape[0], source=source)
    extra = next((name for name in INPUTS if name in union and name not in shape), "input")
    system = next((name for name in SYSTEMS if name in union), None)
    return Columns(shape[0], shape[1], own.get("input", extra), source=source, system=system)


def listed(names: Sequence[str]) -> str:
    """Join the first names, each cut to 40 characters, and count the rest."""
    shown = ", ".join(str(name)[:40] for name in names[:10])
    return (shown or "nothing") + (f" and {len(names) - 10} more" if len(names) > 10 else "")
