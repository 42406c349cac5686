"""Which columns of a row are read: detected for each row, or given by corpus.columns."""

import json

import pytest
from support.parsed import check_bad, check_good, encoded, read, refusal

from s2l_ray.corpus.columns import Columns, UnknownShape, columns_of


def columns(*names: str, **given: str | None) -> Columns:
    return columns_of(frozenset(names), frozenset(given.items()))


@pytest.mark.parametrize(
    "names, expected",
    [
        (("prompt", "messages", "response"), Columns("messages")),
        (("conversation", "model"), Columns("conversation")),
        (("conversations", "tools", "system"),
         Columns("conversations", systems=("system",), tools=("tools",))),
        (("question", "answer", "prompt", "completion"), Columns(None, "prompt", "completion")),
        (("instruction", "input", "context", "output"),
         Columns(None, "instruction", "output", ("input", "context"))),
        (("instruction", "context", "response", "category"),
         Columns(None, "instruction", "response", ("context",))),
        (("id", "system_prompt", "question", "response", "source"),
         Columns(None, "question", "response", systems=("system_prompt",))),
        (("query", "response", "type"), Columns(None, "query", "response")),
        (("problem", "solution", "answer"), Columns(None, "problem", "solution")),
        (("input", "output"), Columns(None, "input", "output")),
        (("input", "context", "output"), Columns(None, "input", "output", ("context",))),
        (("question", "target"), Columns(None, "question", "target")),
        (("question", "solution", "id"), Columns(None, "question", "solution")),
        (("instruction", "history", "output"),
         Columns(None, "instruction", "output", history="history")),
        (("prompt", "thinking", "response"),
         Columns(None, "prompt", "response", reasoning=("thinking",))),
        (("prompt", "completion", "label"), Columns(None, "prompt", "completion", mark="label")),
        (("prompt", "response", "images"), Columns(None, "prompt", "response", unused=("images",))),
        (("messages", "images", "history"), Columns("messages", unused=("images", "history"))),
        # In part: the row is read, to tell what is missing.
        (("instruction",), Columns(None, "instruction", "output")),
        (("response", "x"), Columns(None, "instruction", "response")),
        (("input",), Columns(None, "input", "output")),
        (("prompt", "input", "output"), Columns(None, "instruction", "output")),
    ],
)  # fmt: skip
def test_columns_are_detected_by_their_names(names, expected):
    assert columns(*names) == expected


@pytest.mark.parametrize(
    "names, given, expected",
    [
        (("q", "a", "ctx"), {"instruction": "q", "output": "a", "input": "ctx"},
         Columns(None, "q", "a", ("ctx",))),
        (("input", "output"), {"instruction": "input", "output": "output"},
         Columns(None, "input", "output")),
        (("instruction", "input", "output"), {"instruction": "input"},
         Columns(None, "input", "output")),
        (("input", "best"), {"output": "best"}, Columns(None, "input", "best")),
        (("prompt", "best"), {"output": "best"}, Columns(None, "prompt", "best")),
        (("prompt", "chosen", "rejected"), {"instruction": "prompt", "output": "chosen"},
         Columns(None, "prompt", "chosen")),
        (("chosen", "rejected"), {"messages": "chosen"}, Columns("chosen")),
        (("talk", "from"), {"messages": "talk", "source": "from"}, Columns("talk", source="from")),
        (("prompt", "response", "source"), {"source": None},
         Columns(None, "prompt", "response", source=None)),
        (("source", "response"), {"instruction": "source"},
         Columns(None, "source", "response", source=None)),
        (("prompt", "response", "reasoning"), {"reasoning": "reasoning"},
         Columns(None, "prompt", "response", reasoning=("reasoning",))),
        (("messages", "system", "role"), {"system": "role"},
         Columns("messages", systems=("role",))),
        (("messages", "apis"), {"tools": "apis"}, Columns("messages", tools=("apis",))),
        (("q", "a", "past"), {"instruction": "q", "output": "a", "history": "past"},
         Columns(None, "q", "a", history="past")),
        # Each row has its own shape: here of what is given, or of what is known.
        (("talk",), {"messages": "talk", "instruction": "q", "output": "a"}, Columns("talk")),
        (("q", "a"), {"messages": "talk", "instruction": "q", "output": "a"},
         Columns(None, "q", "a")),
        (("talk", "q", "a"), {"messages": "talk", "instruction": "q", "output": "a"},
         Columns("talk", unused=("a", "q"))),
        (("prompt", "response"), {"messages": "talk"}, Columns(None, "prompt", "response")),
    ],
)  # fmt: skip
def test_given_columns_take_precedence_and_hold_one_thing(names, given, expected):
    assert columns(*names, **given) == expected


@pytest.mark.parametrize(
    "names, reason",
    [
        (("a", "b"), "no columns of a known shape: found a, b; expected messages or "),
        (("text",), "no columns of a known shape: found text; expected messages or "),
        ((), "no columns of a known shape: found nothing"),
        (("question", "output", "solution"),
         "several columns may be the response: output and solution; set corpus.columns.output; "
         "found output, question, solution"),
        (("prompt", "chosen", "rejected"),
         "a pair of preferences, not an example: found chosen, prompt, rejected; to train on the "
         "chosen answers set corpus.columns: {instruction: prompt, output: chosen}"),
        (("chosen", "rejected", "score"),
         "a pair of preferences, not an example: found chosen, rejected, score; to train on the "
         "chosen answers set corpus.columns: {messages: chosen}"),
    ],
)  # fmt: skip
def test_an_unknown_shape_says_what_it_found_and_what_to_set(names, reason):
    with pytest.raises(UnknownShape) as caught:
        columns(*names)
    assert caught.value.reason.startswith(reason)


def lines(*rows: dict) -> bytes:
    return b"".join(encoded(row) + b"\n" for row in rows)


def pair(number: int, **more: object) -> dict:
    return {"instruction": f"q{number}", "output": f"a{number}", **more}


def test_a_column_counts_from_whatever_row_it_begins_in(tmp_path):
    """Detected, or named by corpus.columns."""
    for column, columns in (("system", {}), ("persona", {"system": "persona"})):
        rows = [pair(number) for number in range(100)]
        rows += [pair(number, **{column: "Answer in capitals."}) for number in range(100, 120)]
        found = read(tmp_path / "late.jsonl", lines(*rows), columns=columns)
        roles = [[turn["role"] for turn in row["turns"]] for row in found]
        assert roles == [["user", "assistant"]] * 100 + [["system", "user", "assistant"]] * 20
        assert found[100]["turns"][0]["text"] == "Answer in capitals."


def test_a_row_has_the_shape_of_what_it_fills(tmp_path):
    chat = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]
    rows = [
        {"messages": chat, "prompt": None, "response": None, "input": None, "output": None},
        {"messages": None, "prompt": "q2", "response": "a2", "input": None, "output": None},
        {"messages": [], "prompt": None, "response": None, "input": "q3", "output": "a3"},
        {"messages": None, "prompt": "q4", "response": None, "input": None, "output": None},
        {"messages": None, "prompt": None, "response": None, "input": None, "output": None},
    ]
    path = tmp_path / "union.jsonl"
    *good, half, nothing = read(path, lines(*rows))
    for number, row in enumerate(good, 1):
        check_good(row, path, number, f"q{number}", f"a{number}")
    check_bad(half, path, 4, "empty field 'messages': null")
    check_bad(nothing, path, 5, "empty field 'messages': null")


def test_a_row_that_lacks_a_column_is_told_by_the_shape_of_the_file_s_others(tmp_path):
    path = tmp_path / "lacks.jsonl"
    rows = {"prompt": "q", "completion": "a"}, {"completion": "a"}, {"prompt": "q", "x": 1}
    _, first, second = read(path, lines(*rows))
    check_bad(first, path, 2, "missing field 'prompt': found completion")
    check_bad(second, path, 3, "missing field 'completion': found prompt, x")


def test_a_file_of_no_known_shape_is_refused_by_name(tmp_path):
    path = tmp_path / "odd.jsonl"
    said = refusal(path, lines({"a": 1, "b": 2}, {"c": 3}))
    assert said.startswith(f"{path}: no columns of a known shape: found a, b, c; expected messages")
    said = refusal(path, lines({"question": "q", "answer_a": "a"}, {"question": "r"}))
    assert "known shape: found answer_a, question; expected" in said
    assert said.endswith("or set corpus.columns")
    assert "{instruction: question, output: chosen}" in refusal(
        path, lines({"question": "q", "chosen": "a", "rejected": "b"})
    )
    # The first hundred rows are enough: the rest of a large file is not read.
    odd = json.dumps({"a": 1}).encode() + b"\n"
    assert "known shape: found a;" in refusal(path, odd * 100 + lines(pair(1)))
    late = read(path, odd * 99 + lines(pair(1)))
    assert [row["reason"] is None for row in late] == [False] * 99 + [True]
    check_bad(late[0], path, 1, "no columns of a known shape: found a;")


@pytest.mark.parametrize(
    "rows, columns, expected",
    [
        ([pair(1)], {"output": "outptu"},
         "corpus.columns.output: no column 'outptu'; found instruction, output; nearest: output"),
        ([pair(1)] * 150, {"system": "sytem"}, "corpus.columns.system: no column 'sytem'"),
        ([pair(1, sys=None)], {"system": "sys"}, None),
        ([{"prompt": "q", "response": "a"}], {"messages": "talk"},
         "corpus.columns.messages: no column 'talk'"),
    ],
)  # fmt: skip
def test_a_column_that_no_row_has_is_refused_by_name(tmp_path, rows, columns, expected):
    path = tmp_path / "typo.jsonl"
    if expected is None:
        assert [row["reason"] for row in read(path, lines(*rows), columns=columns)] == [None]
    else:
        assert refusal(path, lines(*rows), columns=columns).startswith(f"{path}: {expected}")
