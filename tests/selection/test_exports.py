"""Examples as rows for other programs, and back."""

import json
import re
from typing import get_args

import pytest
from support.rows import example, message

from s2l_ray.config import CorpusConfig
from s2l_ray.config.selection import ExportFormat
from s2l_ray.corpus.identity import content_of, example_id_of
from s2l_ray.corpus.shapes import parse, row_settings_of
from s2l_ray.selection.exports.formats import FORMATS
from s2l_ray.selection.exports.rows import export_row

SETTINGS = row_settings_of(CorpusConfig(path="-", source="s"))
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 2}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"b": {}, "a": {}}}}
ASKED = message("user", "q")
ANSWERED = message("assistant", "a")


def test_every_format_can_be_asked_for():
    assert [*FORMATS] == [*get_args(ExportFormat)]


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


CALLED = message("assistant", "", tool_calls=[CALL])
RESULT = message("tool", "3", tool_call_id="c1", name="f")
NOT_JSON = {"type": "function", "function": {"name": "f", "arguments": "b is 2"}}


@pytest.mark.parametrize(
    "name, messages, why",
    [
        ("trl_messages", [ASKED, message("assistant", "a", weight=0), ASKED, ANSWERED],
         "1 of 2 assistant turns have no labels, and trl_messages cannot say so; use axolotl, or"),
        ("trl_prompt_completion_messages", [ASKED, ANSWERED, ASKED, ANSWERED],
         "a chat with 2 turns with labels: trl_prompt_completion_messages learns the last"),
        ("trl_prompt_completion_messages", [ASKED, ANSWERED, ASKED],
         "a chat with labels in another turn than the last: "),
        ("trl_prompt_completion", [ASKED, ANSWERED, ASKED, ANSWERED],
         "a chat with turns user, assistant, user, assistant does not fit trl_prompt_completion"),
        ("trl_prompt_completion", [ASKED, message("assistant", "a", reasoning_content="r")],
         "reasoning: trl_prompt_completion has no place for it; use trl_messages"),
        ("llamafactory_alpaca", [ASKED, ANSWERED, ASKED, ANSWERED],
         "a chat with turns user, assistant, user, assistant does not fit llamafactory_alpaca"),
        ("llamafactory_alpaca", [ASKED, message("assistant", "a", reasoning_content="r")],
         "reasoning: llamafactory_alpaca has no place for it; use llamafactory_sharegpt or"),
        ("llamafactory_sharegpt", [ASKED, message("assistant", "a", reasoning_content="r")],
         "reasoning_content: llamafactory_sharegpt has no place for it; use trl_messages or"),
        ("llamafactory_sharegpt", [message("user", "q", name="Ann"), ANSWERED],
         "name: llamafactory_sharegpt has no place for a speaker's name"),
        ("llamafactory_sharegpt", [ASKED, message("assistant", "a", weight=0), ASKED, ANSWERED],
         "1 of 2 assistant turns have no labels, and llamafactory_sharegpt cannot say so"),
        ("llamafactory_sharegpt", [ASKED, ASKED, ANSWERED],
         "a chat with turns user, user, assistant does not fit llamafactory_sharegpt, where"),
        ("llamafactory_sharegpt", [ASKED, CALLED, RESULT, RESULT, ANSWERED],
         "a chat with turns user, assistant, tool, tool, assistant does not fit"),
        ("llamafactory_sharegpt", [ASKED, ANSWERED, ASKED], "a chat with turns user, assistant,"),
        ("llamafactory_sharegpt", [ASKED, message("assistant", "I call", tool_calls=[CALL])],
         "an assistant turn with text and tool_calls: llamafactory_sharegpt has no place for both"),
        ("llamafactory_sharegpt", [ASKED, message("assistant", "", tool_calls=[NOT_JSON])],
         "arguments of a call: llamafactory_sharegpt needs a JSON object"),
        ("axolotl", [ASKED, message("assistant", "", tool_calls=[NOT_JSON])],
         "arguments of a call: axolotl needs a JSON object"),
    ],
)  # fmt: skip
def test_what_a_trainer_s_format_cannot_say_is_refused_by_name(name, messages, why):
    _, found = parse({"messages": messages, "source": "s"}, SETTINGS)
    with pytest.raises(ValueError) as caught:
        FORMATS[name].row(found)
    assert str(caught.value).startswith(why)
    if name != "axolotl" and NOT_JSON not in (messages[-1].get("tool_calls") or []):
        assert re.search("use (trl_messages|axolotl|llamafactory_sharegpt)", str(caught.value))
    json.dumps(FORMATS["messages"].row(found))  # which has a place for all


def test_several_calls_of_one_turn_are_a_list():
    twice = message("assistant", "", tool_calls=[CALL, CALL | {"id": "c2"}])
    _, found = parse({"messages": [ASKED, twice, RESULT, ANSWERED], "source": "s"}, SETTINGS)
    turns = FORMATS["llamafactory_sharegpt"].row(found)["conversations"]
    call = {"name": "f", "arguments": {"b": 2}}
    assert json.loads(turns[1]["value"]) == [call, call]


def test_an_answer_says_whether_axolotl_learns_it():
    said = [ASKED, message("assistant", "a", weight=0), ASKED, ANSWERED]
    _, found = parse({"messages": said, "source": "s"}, SETTINGS)
    row = FORMATS["axolotl"].row(found)
    assert [each.get("train") for each in json.loads(row["messages"])] == [
        None, False, None, True,
    ]  # fmt: skip
    assert row["tools"] == "[]"
