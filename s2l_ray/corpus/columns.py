"""Which columns of a row hold what: detected from their names, or given by corpus.columns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from s2l_ray.corpus.rows import BadRow
from s2l_ray.formatting import printable

CHATS = ("messages", "conversations", "conversation")  # preferred to pairs

PAIRS = (  # prompt and response columns, in order of preference
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("problem", "solution"),
    # Last: question and the only one of RESPONSES; input and output, if no other is in PROMPTS.
)
PROMPTS = ("instruction", "prompt", "question", "query", "problem", "input")
RESPONSES = ("output", "response", "completion", "answer", "solution", "reply", "target")

# Optional columns. All that are filled count.
INPUTS = ("input", "context")  # beside a pair: what the prompt is about
SYSTEMS = ("system", "system_prompt")  # what precedes the conversation
TOOLS = ("tools", "functions")
HISTORY = "history"  # beside a pair: the turns before it, as LLaMA-Factory writes them
REASONING = ("reasoning_content", "thinking")  # beside a pair: what precedes the response
MARK = "label"  # false in TRL's unpaired preferences: the response is a bad one

# Columns whose content would reach a model, but not this system's.
MEDIA = (
    "image", "images", "image_path", "image_paths", "image_url", "image_urls", "img",
    "pixel_values", "video", "videos", "audio", "audios",
)  # fmt: skip
UNUSED = ("documents", "chat_template_kwargs")  # a chat template would read them
UNUSED_BESIDE_CHATS = (HISTORY, "reasoning_content")
UNUSED_BESIDE_PAIRS = ("reasoning",)  # a text, or the setting of a model ("on")

# All names that mean something without corpus.columns.
MEANINGFUL = frozenset(
    (
        *CHATS, *PROMPTS, *RESPONSES, *chain(*PAIRS), *INPUTS, *SYSTEMS, *TOOLS, HISTORY,
        *REASONING, MARK, *MEDIA, *UNUSED, *UNUSED_BESIDE_CHATS, *UNUSED_BESIDE_PAIRS, "source",
        "chosen", "rejected",
    )
)  # fmt: skip

Given = frozenset[tuple[str, str | None]]  # the items of corpus.columns


class UnknownShape(BadRow):
    """No known shape has the row's columns."""


@dataclass(frozen=True)
class Columns:
    """What each column of a row is: either `messages`, or `instruction` and `output`.

    `inputs`, `history` and `reasoning` may go with a pair; the others go with both. `unused` have
    content that would be lost.
    """

    messages: str | None = None
    instruction: str | None = None
    output: str | None = None
    inputs: tuple[str, ...] = ()
    history: str | None = None
    reasoning: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    source: str | None = "source"
    mark: str | None = None
    unused: tuple[str, ...] = ()


def columns_of(names: frozenset[str], given: Given = frozenset()) -> Columns:
    """Choose the columns to read in a row from the names of those that are filled.

    `given` (corpus.columns) takes precedence. UnknownShape if the names match no known shape. If
    they match one in part, it is chosen, so that reading the row tells what is missing.
    """
    columns = whole_columns(names, given) or _partial(names, given)
    if columns is None:
        raise _unknown(names)
    return columns


def columns_of_row(
    row: Mapping[str, Any], given: Given, ignored: frozenset[str], like: Columns | None = None
) -> Columns:
    """Choose a row's columns: from those that are filled, or else from all.

    A column is filled if it holds neither null nor an empty list or object. like: the columns of
    another row of the file, which a row without a whole shape is read by, if it has any of them.
    """
    filled = frozenset(
        [key for key, value in row.items()
         if value is not None and (type(value) not in (list, dict) or value)]
    )  # fmt: skip
    columns = whole_columns(filled - ignored if ignored else filled, given)
    if columns is not None:
        return columns
    names = frozenset(row) - ignored
    if like is not None and names & {like.messages, like.instruction, like.output}:
        return whole_columns(names, given) or like
    return columns_of(names, given)


@lru_cache(4096)
def whole_columns(names: frozenset[str], given: Given) -> Columns | None:
    """Return the columns of the first shape that the names match in full."""
    own = {field: column for field, column in given if column is not None}
    free = names - set(own.values())  # a column holds one thing
    source = "source" if "source" not in own.values() else None
    more: dict[str, Any] = {
        "source": dict(given).get("source", source),
        "systems": _own(own, "system", SYSTEMS, free),
        "tools": _own(own, "tools", TOOLS, free),
        "mark": MARK if MARK in free else None,
    }
    pair = own.keys() & {"instruction", "output", "input"}
    chats = [own["messages"]] if "messages" in own else [] if pair else CHATS
    if chat := next((name for name in chats if name in names), None):
        others = own.keys() - {"messages", "system", "tools", "source", "topic"}
        unused = (*MEDIA, *UNUSED, *UNUSED_BESIDE_CHATS, *sorted(own[field] for field in others))
        return Columns(chat, unused=_among(unused, names), **more)
    found = next((pair for pair in _pairs(names, own) if names.issuperset(pair)), None)
    if found is None:
        return None
    free -= set(found)
    return Columns(
        None,
        *found,
        _own(own, "input", INPUTS, free),
        own.get("history", HISTORY if HISTORY in free else None),
        _own(own, "reasoning", REASONING, free),
        unused=_among((*MEDIA, *UNUSED, *UNUSED_BESIDE_PAIRS), free),
        **more,
    )


def _partial(names: frozenset[str], given: Given) -> Columns | None:
    """Return the first shape that the names match in part, unless `_unknown` says more."""
    own = {field: column for field, column in given if column is not None}
    if "messages" in own and not own.keys() & {"instruction", "output"}:
        return Columns(own["messages"])
    if "output" not in own and (_is_preference(names) or len(_among(RESPONSES, names)) > 1):
        return None
    found = next((pair for pair in _pairs(names, own) if names.intersection(pair)), None)
    return Columns(None, *found) if found else None


def _pairs(names: frozenset[str], own: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of columns that may be prompt and response, in order of preference."""
    claimed = set(own.values())
    for prompt, response in PAIRS:
        taken = ("instruction" not in own and prompt in claimed) or (
            "output" not in own and response in claimed
        )
        if not taken:
            yield own.get("instruction", prompt), own.get("output", response)
    if own.keys() & {"instruction", "output"}:
        if "instruction" not in own:
            yield from ((prompt, own["output"]) for prompt in PROMPTS if prompt not in claimed)
        return
    free = names - claimed
    responses = _among(RESPONSES, free)
    if "question" in free and len(responses) == 1:
        yield "question", responses[0]
    if _among(PROMPTS, free) == ("input",):
        yield "input", "output"


def _own(
    own: Mapping[str, str], field: str, detected: Iterable[str], names: frozenset[str]
) -> tuple[str, ...]:
    return (own[field],) if field in own else _among(detected, names)


def _among(wanted: Iterable[str], names: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in wanted if name in names)


def _is_preference(names: frozenset[str]) -> bool:
    return names.issuperset(("chosen", "rejected"))


def _unknown(names: frozenset[str]) -> UnknownShape:
    found = f"found {listed(sorted(map(str, names)))}"
    if _is_preference(names):
        prompt = next(iter(_among(PROMPTS, names)), None)
        pair = f"instruction: {prompt}, output: chosen" if prompt else "messages: chosen"
        return UnknownShape(
            "a pair of preferences, not an example",
            f"{found}; to train on the chosen answers set corpus.columns: {{{pair}}}",
        )
    responses = _among(RESPONSES, names)
    if len(responses) > 1:
        return UnknownShape(
            "several columns may be the response",
            f"{' and '.join(responses)}; set corpus.columns.output; {found}",
        )
    known = " or ".join([*CHATS, *map(" and ".join, [*PAIRS, ("input", "output")])])
    return UnknownShape(
        "no columns of a known shape", f"{found}; expected {known}, or set corpus.columns"
    )


class FileColumns:
    """The names of the columns that the rows of one file have had.

    `check` raises ValueError if the file has no column that corpus.columns names, or no row with
    all columns of a known shape. `add` does so too if none of the first HEAD rows has any of them.
    first: whether the rows begin the file. If they do not, `add` raises nothing.
    """

    HEAD = 100
    MOST = 10_000  # names that are kept, beside those of corpus.columns

    def __init__(self, file: str, given: Given, first: bool = True) -> None:
        self.file, self.given, self.first = file, given, first
        self.names: set[str] = set()
        self.rows = 0
        self.known = False  # whether a row has had some columns of a known shape
        self.complete: Columns | None = None  # of the first row that has had all

    def add(self, names: frozenset[str], rows: int = 1) -> None:
        """Count rows that have columns of these names."""
        before, self.rows = self.rows, self.rows + rows
        if not names <= self.names:
            self._keep(names)
        if self.complete is None:
            self.complete = whole_columns(names, self.given)
            if self.complete or _partial(names, self.given):
                self.known = True
        if self.first and before < self.HEAD <= self.rows and not self.known:
            self.check()

    def merge(self, later: FileColumns) -> None:
        """Count the rows of a later range of the file too."""
        self._keep(later.names)
        self.rows += later.rows
        self.complete = self.complete or later.complete

    def _keep(self, names: Set[str]) -> None:
        full = len(self.names) > self.MOST
        self.names |= names & {column for _, column in self.given} if full else names

    def check(self) -> None:
        """Raise ValueError if the rows so far lack what corpus.columns names, or a known shape."""
        if not self.rows:
            return
        for field, column in sorted(self.given):
            if column is not None and column not in self.names:
                names = sorted(map(str, self.names))
                near = difflib.get_close_matches(column, names, n=1, cutoff=0.4)
                hint = f"; nearest: {near[0]}" if near else ""
                raise ValueError(
                    f"{self.file}: corpus.columns.{field}: no column {column!r}; found "
                    f"{listed(names)}{hint}"
                )
        if self.complete is None:
            raise ValueError(f"{self.file}: {_unknown(frozenset(self.names)).reason}")


def listed(names: Sequence[str]) -> str:
    """Join the first names, each cut to 40 characters, and count the rest."""
    shown = ", ".join(printable(str(name)[:40]) for name in names[:10])
    return (shown or "nothing") + (f" and {len(names) - 10} more" if len(names) > 10 else "")
