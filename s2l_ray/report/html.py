"""The environment of the templates, and text that HTML can hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from s2l_ray.formatting import MISSING, duration, percent, signed


def environment() -> Any:
    """Return the Jinja environment: it escapes everything and refuses unknown names."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        count=lambda n: f"{n:,}",
        sentence=lambda words: words[:1].upper() + words[1:],
        share=percent,
        number=_number,
        signed=lambda value: MISSING if value is None else signed(value),
        seconds=lambda value: MISSING if value is None else duration(value),
        scientific=_scientific,
    )
    return found


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Replace what HTML or UTF-8 cannot hold (controls, lone surrogates) by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _number(value: float | None, digits: int = 4) -> str:
    """Return fixed digits, "–" for None, "not finite" for NaN and infinities."""
    if value is None:
        return MISSING
    return f"{value:.{digits}f}" if abs(value) < float("inf") else "not finite"


def _scientific(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2e}"
