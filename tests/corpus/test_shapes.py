"""From rows to turns: columns that are detected or given, pairs, chats, and exports back."""

import pytest

from s2l_ray.corpus.columns import Columns, detect
from s2l_ray.corpus.rows import BadRow, Example
from s2l_ray.corpus.shapes import parse
from s2l_ray.selection.exports import export_row


def example(*turns: tuple[str, str]) -> Example:
    return Example([{"role": role, "text": text} for role, text in turns])


def message(role: str, content: object) -> dict:
    return {"role": role, "content": content}


def test_detect_prefers_config_then_chats_then_pairs():
    assert detect([["prompt", "messages", "response"]], {}, "f").messages == "messages"
    both = ["question", "answer", "prompt", "completion"]
    assert detect([both], {}, "f").output == "completion"
    assert detect([["x"], ["question", "answer"]], {}, "f").instruction == "question"
    found = detect([["q", "a", "ctx"]], {"instruction": "q", "output": "a", "input": "ctx"}, "f")
    assert found == Columns("q", "a", "ctx", None, "source")
    dolly = ["instruction", "context", "response", "category"]
    assert detect([dolly], {}, "f") == Columns("instruction", "response", "context", None, "source")
    orca = ["id", "system_prompt", "question", "response"]
    assert detect([orca], {}, "f") == Columns(
        "question", "response", "input", None, "source", "system_prompt"
    )
    assert detect([["prompt", "best"]], {"output": "best"}, "f").instruction == "prompt"
    assert detect([["talk", "from"]], {"messages": "talk", "source": "from"}, "f") == Columns(
        messages="talk", source="from"
    )
    with pytest.raises(
        ValueError,
        match=r"f: corpus.columns.output: no column 'outptu'; "
        r"found instruction, output; nearest: output",
    ):
        detect([["instruction", "output"]], {"output": "outptu"}, "f")
    with pytest.raises(ValueError, match=r"f: no columns of a known shape: found a, b"):
        detect([["a", "b"]], {}, "f")
    with pytest.raises(ValueError, match="got messages and instruction"):
        detect([["m", "i"]], {"messages": "m", "instruction": "i"}, "f")


def test_what_a_pair_s_prompt_is_about_and_what_stands_before_it():
    columns = Columns("question", "answer", "context", None, "source", "system")
    row = {"question": "q", "answer": "a", "context": "c", "system": "s"}
    turns = [("system", "s"), ("user", "q"), ("input", "c"), ("assistant", "a")]
    assert parse(row, columns, "x")[1] == example(*turns)
    assert parse(row | {"context": None, "system": " "}, columns, "x")[1] == example(
        turns[1], turns[3]
    )
    with pytest.raises(BadRow, match="wrong type of 'context'"):
        parse(row | {"context": ["c"]}, columns, "x")


def test_chats():
    chat = Columns(messages="messages", source="source")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    record = {
        "messages": [
            message("system", ""),
            message("user", parts),
            message("assistant", "c"),
            message("user", " d "),
        ]
    }
    source, found = parse(record, chat, "s")
    assert source == "s"
    assert found == example(("system", ""), ("user", "ab"), ("assistant", "c"), ("user", " d "))
    user = message("user", "u")
    for messages, category in [
        ("text", "wrong type of 'messages'"),
        (["text"], "wrong type in 'messages'"),
        ([], "no assistant turn"),
        ([user], "no assistant turn"),
        ([message("assistant", "a"), user], "the first turn is the assistant's"),
        ([user, message("tool", "t")], "unknown role"),
        ([user, {"content": "c"}], "missing field 'role'"),
        ([user, {"role": "assistant"}], "missing field 'content'"),
        ([user, message("assistant", "")], "empty field 'content'"),
        ([user, message("assistant", None)], "empty field 'content'"),
        ([user, message("assistant", 3)], "wrong type of 'content'"),
        ([message("user", [{"type": "image"}])], "wrong type of 'content'"),
    ]:
        with pytest.raises(BadRow) as caught:
            parse({"messages": messages}, chat, "s")
        assert caught.value.category == category
        assert caught.value.reason.startswith(category)


def test_export_row_round_trip():
    for turns in (
        [("user", "q"), ("assistant", "a")],
        [("user", "q"), ("input", "i"), ("assistant", "a")],
        [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")],
    ):
        stored = example(*turns).turns
        for shape in ("alpaca", "prompt_response", "messages"):
            if len(turns) == 5 and shape != "messages":
                with pytest.raises(ValueError, match="use messages"):
                    export_row(stored, "s", shape)
                continue
            row = export_row(stored, "s", shape)
            back = parse(row, detect([row], {}, "f"), "other")
            if len(turns) == 3 and shape != "alpaca":
                assert back == ("s", example(("user", "q\n\ni"), ("assistant", "a")))
            else:
                assert back == ("s", example(*turns))
    with pytest.raises(ValueError, match="found 'csv', expected alpaca"):
        export_row([], "s", "csv")
