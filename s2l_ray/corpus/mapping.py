"""corpus.map: a user's function from a row of a source to a row of a known shape.

The field's description (config/corpus.py) is the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.rows import BadRow, SourceRow, text_of
from s2l_ray.execution.extensions import import_extension

LONGEST = 200  # characters that are kept of a reason


@dataclass(frozen=True)
class RowMap:
    """The function, and the checksum of its module's source file."""

    function: Callable[[Any], Any]
    checksum: str

    def __call__(self, content: Any) -> Any:
        """Return the new row; raise BadRow if the function rejects the row or fails."""
        try:
            found = self.function(content)
        except Exception as error:  # a user's function may raise anything
            name = type(error).__name__
            raise BadRow(f"corpus.map raised {name}", str(error)[:LONGEST]) from None
        if found is None:
            raise BadRow("rejected by corpus.map")
        if isinstance(found, str):
            category, _, detail = found[:LONGEST].partition(":")
            raise BadRow(f"rejected by corpus.map ({category.strip()})", detail.strip())
        return found


def row_map_of(config: CorpusConfig) -> RowMap | None:
    return _load(config.map) if config.map else None


def mapped(rows: Iterable[SourceRow], row_map: RowMap) -> Iterator[SourceRow]:
    """Map the rows that could be read. Their text stays that of the source."""
    for row in rows:
        if isinstance(row.content, BadRow):
            yield row
            continue
        text = text_of(row)  # now: the function may change the row
        try:
            content = row_map(row.content)
        except BadRow as bad:
            content = bad
        yield SourceRow(row.number, text, content, row.typed)


@cache  # a module is imported once, so its checksum must stay that of what was imported
def _load(name: str) -> RowMap:
    function, checksum = import_extension("corpus.map", name)
    if not callable(function):
        raise ValueError(f"corpus.map: {name!r}: expected a function, got {function!r}")
    return RowMap(function, checksum)
