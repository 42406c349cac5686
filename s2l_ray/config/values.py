"""Types of single values: budgets, seeds, locations, names."""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
)

from s2l_ray.config.credentials import credentials_fault

# A built-in selector is a file in s2l_ray/selection/selectors. Importing them would import NumPy.
BUILT_IN_SELECTORS = tuple(
    sorted(
        file.stem
        for file in (Path(__file__).parents[1] / "selection" / "selectors").glob("*.py")
        if not file.stem.startswith("_")
    )
)
BASELINE = "random"  # what selectors are compared with
RACE = "race"  # the selector that takes the subset of another one


IMPORT_NAME = r"\w+(\.\w+)*:\w+"  # module:name


def _import_name(value: str) -> str:
    if not re.fullmatch(IMPORT_NAME, value):
        raise ValueError(f"expected module:name, such as my_rows:to_pair, got {shown(value)}")
    return value


ImportName = Annotated[
    str,
    AfterValidator(_import_name),
    WithJsonSchema({"type": "string", "pattern": f"^{IMPORT_NAME}$"}),
]


ALPHA = r"(?:0\.\d*[1-9]|1)"  # of a selector with quotas of its own: above 0, at most 1


def alpha_of(selector: str) -> tuple[str, float]:
    """Divide the name of a selector: s2l@0.5 is ("s2l", 0.5), s2l is ("s2l", 0.0)."""
    match = re.fullmatch(rf"(\w+)@({ALPHA})", selector)
    return (match[1], float(match[2])) if match else (selector, 0.0)


def _known_selector(value: str) -> str:
    if alpha_of(value)[0] in BUILT_IN_SELECTORS or re.fullmatch(IMPORT_NAME, value):
        return value
    if "@" in value:
        raise ValueError(
            f"expected NAME@ALPHA with 0 < ALPHA <= 1, such as s2l@0.5, got {shown(value)}"
        )
    near = difflib.get_close_matches(value, BUILT_IN_SELECTORS, n=1, cutoff=0.4)
    hint = f"; nearest valid name: {near[0]}" if near else ""
    raise ValueError(
        f"expected one of {', '.join(BUILT_IN_SELECTORS)}, NAME@ALPHA, or module:Class, got "
        f"{shown(value)}{hint}"
    )


SelectorName = Annotated[
    str,
    AfterValidator(_known_selector),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(BUILT_IN_SELECTORS)},
                {"type": "string", "pattern": rf"^\w+@{ALPHA}$"},
                {"type": "string", "pattern": f"^{IMPORT_NAME}$"},
            ]
        }
    ),
]

Positive = Annotated[int, Field(ge=1, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**32 - 1)]  # NumPy takes 32 bits; seed + 1 is used too
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # becomes part of folder names

Location = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]  # a path or URI

Share = Annotated[float, Field(ge=0, lt=1)]


def _budget(value: Any) -> Any:
    parse_budget(value)  # before pydantic takes true for 1
    return value


Budget = Annotated[int | float | str, BeforeValidator(_budget)]


_SECONDS = {"s": 1, "min": 60, "h": 3600}
_TIME = r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)\s*"


def parse_interval(value: int | str) -> tuple[Literal["steps", "seconds"], float]:
    """Parse an interval: 500 is ("steps", 500), "10 min" is ("seconds", 600). ValueError on
    anything else."""
    match = re.fullmatch(_TIME, value) if isinstance(value, str) else None
    if match and float(match[1]) > 0:
        return "seconds", float(match[1]) * _SECONDS[match[2]]
    if type(value) is int and 0 < value < 2**63:
        return "steps", value
    raise ValueError(
        f'expected a number of steps (500) or a time ("10 min", "2 h", "90 s"), above 0; got '
        f"{shown(value)}"
    )


def _interval(value: Any) -> Any:
    parse_interval(value)
    return value


Interval = Annotated[
    int | str,
    BeforeValidator(_interval),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": f"^{_TIME}$"},
            ]
        }
    ),
]


def no_entry_twice(value: list) -> list:
    if len(set(value)) != len(value):
        raise ValueError(f"has a duplicate entry: {value}")
    return value


def with_baseline(value: list) -> list:
    if BASELINE not in value:
        raise ValueError(f"expected {BASELINE} among them, the baseline of all; got {value}")
    return value


def parse_budget(value: int | float | str) -> tuple[str, float]:
    """Parse a budget into ("examples", n), ("share", 0 < s <= 1) or ("tokens", n).

    Strings: "500", "11%", "2M tokens", "1.5B tokens". Raises ValueError on anything else.
    """
    expected = 'a count (1000), a share (0.11 or "11%") or tokens ("2M tokens")'
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected {expected}, got {shown(value)}")
    if isinstance(value, str):
        text = value.strip()
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGB]?)\s*tokens", text):
            scale = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}[match[2]]
            kind, number = "tokens", (float(match[1]) * scale + 0.5) // 1  # inf becomes NaN
        elif match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text):
            kind, number = "share", float(match[1]) / 100
        elif re.fullmatch(r"\d+", text):
            kind, number = "examples", float(text)
        else:
            raise ValueError(f"expected {expected}, got {shown(value)}")
    else:
        kind = "examples" if isinstance(value, int) else "share"
        number = float(value) if abs(value) < 2**63 else math.inf
    if not 0 < number < 2**63 or (kind == "share" and number > 1):
        raise ValueError(
            f"expected {expected}, above 0, a share at most 1, within 64 bits; got {shown(value)}"
        )
    return kind, number


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, int) and abs(value) >= 2**63:  # Python may refuse to print it
        return "an integer beyond 64 bits"
    if credentials_fault(value):
        return "a value with credentials"
    text = re.sub(r"(\w://)[^/]*@", r"\1***@", repr(value))  # in the middle of a text
    text = re.sub(r"(\w://[^?'\"]*\?)[^'\"]*", r"\1***", text)
    return text if len(text) <= 80 else text[:77] + "..."
