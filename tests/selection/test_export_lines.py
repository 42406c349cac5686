"""Exports: lines that every reader counts alike, and the check of all examples."""

import json

import pytest
from support.corpora import example, write_corpus

from s2l_ray.selection.export_lines import check_exports, export_lines
from s2l_ray.store.schemas import EXAMPLES, completed

CHAT = [("system", "a"), ("user", "b"), ("assistant", "c")]


def chat(text):
    turns = [{"role": role, "text": f"{said}{text}"} for role, said in CHAT]
    return {"source": "s", "turns": turns}


def read(store, corpus):
    [part] = corpus.parts
    return completed(store.read_part(corpus.folder, part), EXAMPLES)


def test_no_reader_takes_a_character_of_a_text_for_the_end_of_a_line(store):
    """Python's str.splitlines knows more line ends than any reader of JSON lines."""
    letters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x110000))]
    ends = [letter for letter in letters if len(f"a{letter}b".splitlines()) == 2]
    assert {"\n", "\r", "\x0b", "\x1e", "\x85", "\u2028", "\u2029"} <= {*ends}
    text = "".join(f"a{end}b\ufeff\x00\x7fé🦜" for end in ends)
    table = read(store, write_corpus(store, [example(text, text), example("c", text)], num_parts=1))
    for shape in ("alpaca", "prompt_response", "messages"):
        lines = export_lines(table, shape).decode().splitlines()
        assert len(lines) == 2
        rows = [json.loads(line) for line in lines]
        assert [row["example_id"] for row in rows] == table["example_id"].to_pylist()
        assert all(text in (row.get("output"), row.get("response")) for row in rows) or (
            shape == "messages" and all(row["messages"][-1]["content"] == text for row in rows)
        )
        assert "é🦜" in lines[0]  # nothing else is escaped


def test_every_example_is_checked_and_the_first_that_does_not_fit_is_named(local_ray, store):
    pairs = [example(f"question {n}", "answer") for n in range(1200)]
    fitting = write_corpus(store, pairs, folder="corpus/pairs")
    check_exports(store, fitting, ["alpaca", "prompt_response", "messages"])
    rows = [*pairs[:700], *map(chat, range(20)), *pairs[700:]]
    corpus = write_corpus(store, rows, num_parts=4)
    check_exports(store, corpus, ["messages"])
    assert sum(part.rows for part in corpus.parts) == 1220
    for shape in ("alpaca", "prompt_response"):
        told = (
            rf"^selection\.export: test\.jsonl:701: a chat with turns system, user, assistant .*; "
            rf"use messages \(20 of 1,220 examples cannot be written as {shape}\)$"
        )
        with pytest.raises(ValueError, match=told):
            check_exports(store, corpus, ["messages", shape])
