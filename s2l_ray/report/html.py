"""The environment of the templates, and text that HTML can hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from s2l_ray.formatting import MISSING, duration, measured, plus_minus, share, signed

MAX_NAME = 40  # characters of a name in a sentence
MAX_CELL = 120  # of a name, place or reason in a table
MAX_CHARS = 400  # of what an example's text shows: of the prompt, and of the labels


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
        sentences=sentences,
        name=name,
        short=lambda text: name(text, MAX_CELL),
        cut=cut,
        share=share,
        measured=lambda value: MISSING if value is None else measured(value),
        error=lambda value: MISSING if value is None else measured(value, 2),
        signed=lambda value: MISSING if value is None else signed(value),
        seconds=lambda value: MISSING if value is None else duration(value),
        scientific=lambda value: MISSING if value is None else f"{value:.2e}",
        p_value=lambda p: MISSING if p is None else "< 0.001" if p < 0.001 else measured(p, 2),
    )
    found.globals.update(plus_minus=plus_minus)
    return found


_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Replace what HTML or UTF-8 cannot hold (controls, lone surrogates) by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def name(text: str, limit: int = MAX_NAME) -> str:
    """Return a name of the corpus or the user for the middle of a sentence: one short line, without
    controls of direction, which would reverse the rest of it."""
    text = " ".join(_DIRECTION.sub("", printable(text[: 10 * limit])).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def quoted(text: str) -> str:
    """Return a name for a list of names, in quotation marks if it has a comma itself."""
    text = name(text)
    return f"“{text}”" if "," in text else text


def sentences(text: str) -> list[str]:
    """Split a text after each full stop that a capital follows."""
    return re.split(r"(?<=\.) (?=[A-Z])", text)


def cut(text: str, limit: int) -> str:
    """Return the first `limit` characters, and how many more there are."""
    missing = len(text) - limit
    text = printable(text[:limit])
    return f"{text}… [{missing:,} more characters]" if missing > 0 else text
