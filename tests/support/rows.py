"""Single rows, as shapes.py makes examples of them."""

from __future__ import annotations

from typing import Any

import pytest

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.rows import BadRow, Example
from s2l_ray.corpus.shapes import parse, row_settings_of


def example(*turns: tuple[str, str], tools: str | None = None, **last: Any) -> Example:
    """An example of these roles and texts; `last` are fields of the last turn."""
    found: list[Any] = [{"role": role, "text": text} for role, text in turns]
    found[-1] |= last
    return Example(found, tools)


def read(row: Any, *, typed: bool = False, **settings: Any) -> Example:
    return parse(row, row_settings_of(CorpusConfig(path="-", **settings)), typed=typed)[1]


def refused(row: Any, **settings: Any) -> str:
    with pytest.raises(BadRow) as caught:
        read(row, **settings)
    assert caught.value.reason.startswith(caught.value.category)
    return caught.value.reason


def message(role: str, content: object, **more: object) -> dict:
    return {"role": role, "content": content, **more}
