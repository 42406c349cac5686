"""corpus.map: a user's function from a row of a source to a row of a known shape.

The field's description (config/corpus.py) is the contract. The driver imports the function; Ray's
tasks get its module by value, so other nodes need no copy of it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ray.cloudpickle

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.rows import BadRow, SourceRow, text_of
from s2l_ray.store.checksums import checksum_of

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
        yield SourceRow(row.number, text, content)


@cache  # a module is imported once, so its checksum must stay that of what was imported
def _load(name: str) -> RowMap:
    """Import `module:function`, also from the current folder. ValueError says what is wrong."""
    module_name, _, function_name = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(
            f"corpus.map: cannot import {module_name!r}: {type(error).__name__}: {error}"
        ) from error
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise ValueError(
            f"corpus.map: expected a module with Python source, got {module_name!r} "
            f"({file or 'no file'})"
        )
    function = getattr(module, function_name, None)
    if not callable(function):
        found = type(function).__name__ if hasattr(module, function_name) else "nothing"
        raise ValueError(
            f"corpus.map: expected a function {function_name!r} in {file}, got {found}"
        )
    ray.cloudpickle.register_pickle_by_value(module)
    return RowMap(function, checksum_of(Path(file).read_bytes()))
