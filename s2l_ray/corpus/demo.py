"""The demo corpus: synthetic instructions from sources of unequal size and difficulty.

`corpus.path: demo` reads it without a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

from s2l_ray.corpus.demo_problems import (
    Problem,
    addition_subtraction,
    comparison,
    dates,
    fractions,
    linear_equations,
    lists,
    multiplication,
    noisy_arithmetic,
    percentages,
    roman_numerals,
    sequences,
    shopping,
    short_answers,
    strings,
    travel,
    unit_conversion,
)

# The weights add up to 6000, the default size, so they are then the sizes of the sources.
SOURCES: dict[str, tuple[Callable[[Random], Problem], int]] = {
    "addition_subtraction": (addition_subtraction, 1500),
    "multiplication": (multiplication, 860),
    "shopping": (shopping, 700),
    "percentages": (percentages, 540),
    "linear_equations": (linear_equations, 460),
    "travel": (travel, 380),
    "unit_conversion": (unit_conversion, 320),
    "comparison": (comparison, 280),
    "noisy_arithmetic": (noisy_arithmetic, 240),
    "short_answers": (short_answers, 200),
    "fractions": (fractions, 160),
    "lists": (lists, 120),
    "strings": (strings, 90),
    "dates": (dates, 60),
    "roman_numerals": (roman_numerals, 50),
    "sequences": (sequences, 40),
}


def source_sizes(num_examples: int) -> dict[str, int]:
    """Split `num_examples` by weight, rounded by largest remainder."""
    total = sum(weight for _, weight in SOURCES.values())
    shares = {name: divmod(num_examples * w, total) for name, (_, w) in SOURCES.items()}
    left = num_examples - sum(share for share, _ in shares.values())
    favored = sorted(shares, key=lambda name: -shares[name][1])[:left]
    return {name: share + (name in favored) for name, (share, _) in shares.items()}


def generate(num_examples: int = 6000, *, seed: int = 0) -> list[dict[str, str]]:
    """Make `num_examples` rows {"instruction", "output", "source"}, shuffled.

    No instruction is repeated. The rows depend only on the arguments. ValueError if a source runs
    out of different questions.
    """
    if num_examples < 1:
        raise ValueError(f"num_examples: expected 1 or more, got {num_examples}")
    rows: dict[str, dict[str, str]] = {}
    for name, size in source_sizes(num_examples).items():
        rng = Random(f"{seed}/{name}")  # a str seeds by SHA-512, whatever PYTHONHASHSEED is
        for made in range(size):
            problems = (SOURCES[name][0](rng) for _ in range(1000))
            fresh = next((problem for problem in problems if problem[0] not in rows), None)
            if fresh is None:
                raise ValueError(
                    f"source {name!r}: expected {size} different questions, got {made}; lower "
                    f"num_examples (now {num_examples})"
                )
            ask, working, answer = fresh
            output = f"{working} The answer is {answer}." if working else answer
            rows[ask] = {"instruction": ask, "output": output, "source": name}
    shuffled = list(rows.values())
    Random(seed).shuffle(shuffled)
    return shuffled


@cache
def content(num_examples: int = 6000, *, seed: int = 0, bad_rows: int = 5) -> bytes:
    """Return `generate(num_examples)` as JSON lines, with `bad_rows` broken lines among them.

    The broken lines show how rejected rows are reported. In turn they lack an output, have an empty
    one, are cut short, are plain text, and have a null output.
    """
    if bad_rows < 0:
        raise ValueError(f"bad_rows: expected 0 or more, got {bad_rows}")
    rows, rng = generate(num_examples, seed=seed), Random(f"{seed}/bad_rows")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    for i in range(bad_rows):
        row = rng.choice(rows)
        question, line = row["instruction"], json.dumps(row, ensure_ascii=False)
        bad = (
            json.dumps({"instruction": question, "source": row["source"]}, ensure_ascii=False),
            json.dumps({**row, "output": ""}, ensure_ascii=False),
            line[: len(line) // 2],
            f"# {question}",
            json.dumps({**row, "output": None}, ensure_ascii=False),
        )
        lines.insert(rng.randint(0, len(lines)), bad[i % len(bad)])
    return ("\n".join(lines) + "\n").encode()


def write(path: str | Path, num_examples: int = 6000, *, seed: int = 0, bad_rows: int = 5) -> Path:
    """Write `content(num_examples)` to a file, whole or not at all."""
    data, path = content(num_examples, seed=seed, bad_rows=bad_rows), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
