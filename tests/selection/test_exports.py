"""Examples as rows for other programs, and back."""

import json

import pytest
from support.rows import example, message

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.identity import content_of, example_id_of
from s2l_ray.corpus.shapes import parse, row_settings_of
from s2l_ray.selection.exports.rows import export_row

SETTINGS = row_settings_of(CorpusConfig(path="-", source="s"))
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 2}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"b": {}, "a": {}}}}
ASKED = message("user", "q")
ANSWERED = message("assistant", "a")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, ANSWERED]},
        {"messages": [message("system", "s"), ASKED, ANSWERED, ASKED, ANSWERED]},
        {"messages": [ASKED, message("assistant", "a", reasoning_content="r")]},
        {"messages": [ASKED, message("assistant", "", tool_calls=[CALL, CALL | {"id": "c2"}]),
                      message("tool", "3", tool_call_id="c1", name="f"),
                      message("tool", "", tool_call_id="c2"), ANSWERED], "tools": [TOOL]},
        {"messages": [ASKED, message("assistant", "wrong", weight=0), message("user", "no"),
                      message("assistant", "a", reasoning_content="r", tool_calls=[CALL])]},
        {"messages": [message("user", "q", name="Ann"), ANSWERED], "tools": [TOOL, TOOL]},
    ],
)  # fmt: skip
def test_messages_are_exported_as_they_were_and_read_again_as_the_same_example(row):
    source, found = parse(row | {"source": "s"}, SETTINGS)
    exported = export_row(found, "messages")
    assert exported == row
    again = parse(json.loads(json.dumps(exported | {"source": "s"})), SETTINGS)
    assert again == (source, found)
    assert example_id_of("s", content_of(again[1])) == example_id_of("s", content_of(found))


def test_pairs_are_exported_and_read_again():
    asked, read = ("user", "q"), ("input", "i")
    for turns in ([asked, ("assistant", "a")], [asked, read, ("assistant", "a")]):
        for shape in ("alpaca", "prompt_response", "messages"):
            row = export_row(example(*turns), shape) | {"source": "s"}
            if len(turns) == 3 and shape != "alpaca":
                assert parse(row, SETTINGS) == (
                    "s",
                    example(("user", "q\n\ni"), ("assistant", "a")),
                )
            else:
                assert parse(row, SETTINGS) == ("s", example(*turns))


PAIR = (("user", "q"), ("assistant", "a"))


@pytest.mark.parametrize("shape", ["alpaca", "prompt_response"])
@pytest.mark.parametrize(
    "unfit, why",
    [
        (example(("system", "s"), *PAIR), "a chat with turns system, user, assistant does not fit"),
        (example(*PAIR, *PAIR), "a chat with turns user, assistant, user, assistant does not fit"),
        (example(*PAIR, reasoning="r"), "reasoning: {} has no place for it"),
        (example(*PAIR, tools="[]"), "tools: {} has no place for it"),
        (example(*PAIR, tool_calls="[]", name="f"), "name, tool_calls: {} has no place for it"),
    ],
)
def test_what_a_pair_has_no_place_for_is_refused_by_name(shape, unfit, why):
    with pytest.raises(ValueError) as caught:
        export_row(unfit, shape)
    assert str(caught.value).startswith(why.format(shape))
    assert str(caught.value).endswith("use messages")
    assert "a" in export_row(example(*PAIR, reasoning=None), shape).values()  # from the store
