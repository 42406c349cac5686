"""From messages to turns: roles, parts, reasoning, calls of tools, labels, unknown keys."""

from typing import Any

import pytest
from support.rows import message, read, refused

USER = message("user", "q")
CALL = {"name": "f", "arguments": {"b": 2, "a": 1}}
STORED = '[{"type":"function","function":{"name":"f","arguments":{"b":2,"a":1}}}]'


def turn(given: dict, **settings: Any) -> dict:
    """The turn of a message that stands between a user's and an assistant's."""
    messages = [USER, given, message("assistant", "the end")]
    found = read({"messages": messages}, **settings).turns
    assert found[0] == {"role": "user", "text": "q"}
    assert found[2] == {"role": "assistant", "text": "the end"}
    return dict(found[1])


def reason(given: Any, **settings: Any) -> str:
    return refused({"messages": [USER, given, message("assistant", "the end")]}, **settings)


@pytest.mark.parametrize(
    "name, role",
    [
        ("User", "user"), ("HUMAN ", "user"), ("prompter", "user"), ("AI", "assistant"),
        ("Assistant", "assistant"), ("gpt", "assistant"), (" bot", "assistant"),
        ("developer", "system"), ("Tool", "tool"), ("observation", "tool"), ("function", "tool"),
        ("ipython", "tool"),
    ],
)  # fmt: skip
def test_names_of_roles(name, role):
    assert turn(message(name, "t")) == {"role": role, "text": "t"}
    assert turn({"from": name, "value": "t"}) == {"role": role, "text": "t"}


def test_roles_of_one_s_own():
    roles = {"Agent": "assistant", "customer ": "user", "bot": "user"}
    assert turn(message("agent", "t"), roles=roles) == {"role": "assistant", "text": "t"}
    assert turn(message("Customer", "t"), roles=roles)["role"] == "user"
    assert turn(message("bot", "t"), roles=roles)["role"] == "user"  # they come first
    said = "unknown role: 'nurse' in message 2; corpus.roles can give it a role"
    assert reason(message("nurse", "t"), roles=roles) == said


@pytest.mark.parametrize(
    "content, text",
    [
        ([{"type": "text", "text": "Say "}, {"type": "text", "text": "hi", "image_url": None}],
         "Say hi"),
        ([{"type": None, "text": "Say hi"}], "Say hi"),  # from Arrow
        (["Say ", "hi"], "Say hi"),
        ([{"type": "input_text", "text": "Say "}, {"type": "output_text", "text": "hi"}], "Say hi"),
        ([{"type": "text", "text": "Say hi", "annotations": [], "id": "p1"}], "Say hi"),
    ],
)  # fmt: skip
def test_text_parts_are_joined(content, text):
    assert turn(message("user", content)) == {"role": "user", "text": text}


@pytest.mark.parametrize(
    "part, kind",
    [
        ({"type": "image", "image": "a.png"}, "got 'image'; images and audio are not read"),
        ({"type": "image_url", "image_url": {"url": "a"}}, "got 'image_url'"),
        ({"type": "input_audio", "input_audio": {}}, "got 'input_audio'"),
        ({"type": "thinking", "thinking": "t"}, "got 'thinking'"),
        ({"type": "text", "text": None}, "got 'text'"),
        ([], "got 'a list'"),
        ({"type": "text", "text": "t", "image_url": "a"}, "unknown key 'image_url' in a part"),
    ],
)
def test_other_parts_are_refused_by_name(part, kind):
    said = reason(message("user", [{"type": "text", "text": "see"}, part]))
    assert said.startswith("wrong type of 'content': ") and kind in said
    assert "message 2" in said


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning(key):
    said = {"role": "assistant", "text": "t", "reasoning": "r"}
    assert turn(message("assistant", "t", **{key: "r"})) == said
    for nothing in (None, "", " \n"):
        assert turn(message("assistant", "t", **{key: nothing})) == {
            "role": "assistant",
            "text": "t",
        }
    assert reason(message("user", "t", **{key: "r"})) == (
        "'reasoning' in a turn of another role: message 2, role user"
    )
    assert reason(message("assistant", "t", **{key: ["r"]})) == (
        f"wrong type of {key!r}: expected a string in message 2, got a list"
    )


def test_reasoning_twice():
    same = message("assistant", "t", reasoning="r", reasoning_content="r")
    assert turn(same)["reasoning"] == "r"
    assert (
        reason(same | {"reasoning": "s"}) == "'reasoning_content' and 'reasoning' differ: message 2"
    )


@pytest.mark.parametrize(
    "given",
    [
        {"tool_calls": [{"type": "function", "function": CALL}]},
        {"tool_calls": [{"function": CALL, "index": 0}]},
        {"tool_calls": [{"id": None, "type": "function", "function": CALL}]},
        {"tool_calls": [CALL]},
        {"tool_calls": '[{"name": "f", "arguments": {"b": 2, "a": 1}}]'},
        {"function_call": CALL},
        {"function_call": CALL, "tool_calls": None},
        {"function_call": CALL, "tool_calls": [CALL]},
    ],
)
def test_calls_are_nested_as_openai_writes_them(given):
    for content in (None, "", "One moment."):
        found = turn(message("assistant", content, **given))
        assert found == {"role": "assistant", "text": content or "", "tool_calls": STORED}
    assert turn({"role": "assistant", **given})["text"] == ""


def test_calls_keep_their_ids_and_the_form_of_their_arguments():
    calls = [
        {"id": "c1", "type": "function", "function": {"arguments": '{"a":  1}', "name": "f"}},
        {"id": "c2", "name": "g", "arguments": {"a": None}},
    ]
    one = '{"id":"c1","type":"function","function":{"arguments":"{\\"a\\":  1}","name":"f"}}'
    two = '{"id":"c2","type":"function","function":{"name":"g","arguments":%s}}'
    found = turn(message("assistant", None, tool_calls=calls))["tool_calls"]
    assert found == "[" + one + "," + two % '{"a":null}' + "]"
    # From Arrow: a struct has the keys of all rows.
    found = read({"messages": [USER, message("assistant", None, tool_calls=calls)]}, typed=True)
    assert found.turns[1]["tool_calls"] == "[" + one + "," + two % "{}" + "]"


@pytest.mark.parametrize("name", ["function_call", "tool_call"])
@pytest.mark.parametrize("many", [False, True])
def test_sharegpt_has_calls_in_messages_of_their_own(name, many):
    value = '{"name": "f", "arguments": {"b": 2, "a": 1}}'
    said = {"role": "assistant", "text": "", "tool_calls": STORED}
    assert turn({"from": name, "value": f"[{value}]" if many else value}) == said
    assert turn({"from": name, "value": value, "weight": 0}) == said | {"train": False}


@pytest.mark.parametrize(
    "given, said",
    [
        ({"tool_calls": ["f"]}, "not JSON: 'tool_calls' in message 2"),
        ({"tool_calls": [1]}, "wrong type of 'tool_calls': expected an object as a call"),
        ({"tool_calls": [{"type": "custom", "custom": {}}]}, "wrong type of 'tool_calls'"),
        ({"tool_calls": [{"function": {"arguments": "{}"}}]},
         "wrong type of 'tool_calls': expected a call with the name of a function in message 2"),
        ({"tool_calls": [{"function": {"name": "f"}}]},
         "wrong type of 'tool_calls': expected arguments as an object or JSON text in message 2, "
         "got null"),
        ({"tool_calls": [{"function": CALL, "result": "r"}]},
         "unknown key in 'tool_calls': 'result' in message 2"),
        ({"tool_calls": [CALL], "function_call": CALL | {"name": "g"}},
         "'tool_calls' and 'function_call' differ: message 2"),
    ],
)  # fmt: skip
def test_calls_that_are_none(given, said):
    assert reason(message("assistant", "t", **given)).startswith(said)


def test_calls_of_sharegpt_that_are_none():
    assert reason({"from": "function_call", "value": "f(2)"}).startswith(
        "not JSON: 'value' in message 2"
    )
    assert reason({"from": "function_call", "value": "[]"}).startswith("empty field 'value'")
    assert reason({"from": "function_call", "value": None}).startswith("empty field 'value'")
    assert reason({"role": "tool_call", "content": "{}", "tool_calls": [CALL]}) == (
        "a call beside 'tool_calls': message 2"
    )
    assert reason(message("user", "t", tool_calls=[CALL])) == (
        "'tool_calls' in a turn of another role: message 2, role user"
    )


def test_turns_of_tools():
    given = message("tool", '{"t": 3}', tool_call_id="c1", name="weather")
    said = {"role": "tool", "text": '{"t": 3}', "tool_call_id": "c1", "name": "weather"}
    assert turn(given) == said
    assert turn(message("function", "3", name="f")) == {"role": "tool", "text": "3", "name": "f"}
    assert turn(message("tool", "")) == {"role": "tool", "text": ""}  # a tool may find nothing
    assert reason(message("tool", None)).startswith("empty field 'content': message 2, null")
    assert reason(message("user", "t", tool_call_id="c1")) == (
        "'tool_call_id' in a turn of another role: message 2, role user"
    )
    assert turn(message("user", "t", name="Ann")) == {"role": "user", "text": "t", "name": "Ann"}


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"mask": True}, {"mask": 1},
             {"loss": False}, {"loss": 0, "weight": 0}],
)  # fmt: skip
def test_a_turn_without_labels(mark):
    said = {"role": "assistant", "text": "t", "train": False}
    assert turn(message("assistant", "t", **mark)) == said
    assert turn(message("user", "t", **mark)) == {"role": "user", "text": "t"}


@pytest.mark.parametrize(
    "mark", [{"weight": 1}, {"weight": None}, {"train": True}, {"mask": False}, {"loss": True}]
)
def test_a_turn_with_labels_is_the_same_as_one_without_a_mark(mark):
    assert turn(message("assistant", "t", **mark)) == {"role": "assistant", "text": "t"}


@pytest.mark.parametrize(
    "role, mark, said",
    [
        ("assistant", {"weight": 0.5},
         "wrong value of 'weight': expected 0 or 1, or a boolean, in message 2, got 0.5"),
        ("assistant", {"mask": "User"}, "wrong value of 'mask'"),
        ("assistant", {"weight": float("nan")}, "wrong value of 'weight'"),
        ("assistant", {"weight": 0, "train": True}, "'weight' and 'train' differ: message 2"),
        ("user", {"train": True},
         "'train' asks for labels of another's turn: message 2, role user; only the assistant's "
         "turns have labels"),
    ],
)  # fmt: skip
def test_marks_that_are_refused_by_name(role, mark, said):
    assert reason(message(role, "t", **mark)).startswith(said)


def test_weights_of_one_on_all_turns_change_nothing():
    assert turn(message("user", "t", weight=1)) == {"role": "user", "text": "t"}


@pytest.mark.parametrize(
    "more",
    [
        {"id": "m1", "timestamp": 3, "created_at": "today", "parent_id": 7, "model": "m"},
        {"images": [], "refusal": None, "annotations": [], "audio": None, "notes": " "},
    ],
)
def test_harmless_and_empty_keys_are_left_out(more):
    assert turn(message("assistant", "t", **more)) == {"role": "assistant", "text": "t"}


@pytest.mark.parametrize("key, value", [("images", ["a.png"]), ("refusal", "no"), ("draft", 0)])
def test_unknown_keys_with_content_are_refused_by_name(key, value):
    given = message("assistant", "t", **{key: value})
    assert reason(given) == (
        f"unknown key {key!r} in a message: message 2; corpus.ignore_keys: [{key}] leaves it out"
    )
    assert turn(given, ignore_keys=[key]) == {"role": "assistant", "text": "t"}
    known = message("assistant", "t", reasoning="r")
    assert turn(known, ignore_keys=["reasoning"]) == {"role": "assistant", "text": "t"}


@pytest.mark.parametrize(
    "given, said",
    [
        ({"content": "c"}, "missing field 'role': message 2, found content"),
        (message(3, "c"), "unknown role: 3 in message 2"),
        (message(["user"], "c"), "unknown role: ['user'] in message 2"),
        ({"role": "user", "from": "gpt", "content": "c"},
         "'role' and 'from' differ: message 2: user and assistant"),
        (message("user", "c", value="d"), "'content' and 'value' differ: message 2"),
        ({"role": "assistant"}, "missing field 'content': message 2, found role"),
        (message("assistant", ""), "empty field 'content': message 2, role assistant"),
        (message("assistant", " ", reasoning="r"), "empty field 'content': message 2, role"),
        (message("assistant", None), "empty field 'content': message 2, null"),
        (message("assistant", 3),
         "wrong type of 'content': expected a string in message 2, got a number"),
        (message("user", "c", name=["Ann"]), "wrong type of 'name': expected a string in message"),
    ],
)  # fmt: skip
def test_a_message_that_is_no_turn_says_why(given, said):
    assert reason(given).startswith(said)


def test_an_empty_system_turn_is_kept_as_it_is():
    for content in ("", None):
        assert turn(message("system", content)) == {"role": "system", "text": ""}
