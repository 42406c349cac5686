"""Ids of examples, and rows that share one."""

import hashlib

import pyarrow as pa
import pytest

from s2l_ray.corpus.duplicates import settle
from s2l_ray.corpus.identity import content_of, example_id_of
from s2l_ray.corpus.parsing import PARSED
from s2l_ray.corpus.rows import Example
from s2l_ray.store.schemas import DUPLICATES


def test_example_id_is_63_bits_of_source_and_canonical_turns():
    ask, answer = {"role": "user", "text": "é"}, {"role": "assistant", "text": "a"}
    call = '[{"function": {"name": "f"}}]'
    calling = {"role": "assistant", "text": "", "train": False, "name": None, "tool_calls": call}
    for example, content in (
        (Example([ask, answer]), '[["user","é"],["assistant","a"]]'),
        (Example([ask, answer | {"train": None}]), '[["user","é"],["assistant","a"]]'),
        (Example([ask, answer], "[]"), '[["user","é"],["assistant","a"],{"tools":"[]"}]'),
        (
            Example([ask, calling]),
            '[["user","é"],["assistant","",{"tool_calls":'
            '"[{\\"function\\": {\\"name\\": \\"f\\"}}]","train":false}]]',
        ),
    ):
        assert content_of(example).decode() == content
        digest = hashlib.blake2b(b'"s"' + content.encode(), digest_size=8)
        assert example_id_of("s", content_of(example)) == int(digest.hexdigest(), 16) >> 1


def parsed(items: list[tuple[int, str, str, int]]) -> pa.Table:
    """(example_id, answer, file, row) of rows as the shuffle brings them."""
    return pa.Table.from_pylist(
        [
            {
                "part": 0,
                "example_id": i,
                "source": "s",
                "file": file,
                "row": row,
                "heldout": False,
                "turns": [{"role": "user", "text": "q"}, {"role": "assistant", "text": a}],
            }
            for i, a, file, row in items
        ],
        schema=PARSED,
    )


def test_duplicates_are_dropped_numbered_or_a_collision():
    table = parsed([(8, "a", "f", 20), (9, "b", "f", 1), (8, "a", "f", 3), (8, "a", "e", 30)])
    dropped, repeated = settle(table, "drop", (0, 11))
    assert repeated.schema == DUPLICATES
    assert [tuple(row.values()) for row in repeated.to_pylist()] == [
        (8, "f", 3, "e", 30),
        (8, "f", 20, "e", 30),
    ]
    assert [(r["example_id"], r["file"], r["row"]) for r in dropped.to_pylist()] == [
        (8, "e", 30),
        (9, "f", 1),
    ]
    numbered, repeated = settle(table, "number", (0, 11))
    assert repeated.num_rows == 2
    assert [(r["example_id"], r["file"], r["row"]) for r in numbered.to_pylist()] == [
        (0, "f", 20),
        (8, "e", 30),
        (9, "f", 1),
        (10, "f", 3),  # past the part's end: from its start
    ]
    table = parsed([(8, "a", "f", 20), (9, "b", "f", 1), (8, "c", "e", 3)])
    for duplicates in ("drop", "number"):
        with pytest.raises(ValueError, match="example_id 8 stands for two contents: e:3 and f:20"):
            settle(table, duplicates, (0, 11))
