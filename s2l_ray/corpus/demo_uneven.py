"""The demo's second corpus, in which selection can matter, and a test set for it.

Three large sources repeat themselves: `comparison` is one sentence with two numbers in it, and
`unit_conversion` and `percentages` have few patterns. Twelve small sources of 40 examples
teach something else each. All answers are right. The test set has as many questions of
each source, and none of the corpus's. So a subset that takes more of the small sources than their
share can do better on it than a random one. Real corpora need not be like this.

`corpus.path: demo-uneven` and `evaluation.files.NAME: demo-uneven-test` read them without a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from random import Random

from s2l_ray.corpus.demo import SOURCES

LARGE = {"comparison": 1200, "unit_conversion": 900, "percentages": 700}
WRONG = "noisy_arithmetic"  # its answers are wrong on purpose
SIZES = {name: LARGE.get(name, 40) for name in SOURCES if name != WRONG}
TEST_SIZES = dict.fromkeys(SIZES, 30)


@cache
def content() -> bytes:
    """Return the corpus as JSON lines."""
    return _as_lines(_rows()[0])


@cache
def test_content() -> bytes:
    """Return the test set as JSON lines."""
    return _as_lines(_rows()[1])


@cache
def _rows() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    asked = set[str]()
    return _drawn(SIZES, "corpus", asked), _drawn(TEST_SIZES, "test", asked)


def _drawn(sizes: Mapping[str, int], what: str, asked: set[str]) -> list[dict[str, str]]:
    """Make rows {"instruction", "output", "source"}, shuffled. asked: questions that are taken."""
    rows = []
    for source, size in sizes.items():
        rng = Random(f"{what}/{source}")  # a str seeds by SHA-512, whatever PYTHONHASHSEED is
        for _ in range(size):
            while True:
                ask, working, answer = SOURCES[source][0](rng)
                if ask not in asked:
                    break
            asked.add(ask)
            output = f"{working} The answer is {answer}." if working else answer
            rows.append({"instruction": ask, "output": output, "source": source})
    Random(what).shuffle(rows)
    return rows


def _as_lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
