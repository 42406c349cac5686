"""From the content of a row to an example: pairs, chats, what stands beside them."""

import json

import numpy as np
import pytest
from support.rows import example, message, read, refused

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.shapes import parse, row_settings_of

PAIR = {"instruction": "q", "output": "a"}
CHAT = {"messages": [message("user", "q"), message("assistant", "a")]}
ASKED = example(("user", "q"), ("assistant", "a"))


@pytest.mark.parametrize(
    "row",
    [
        {"query": "q", "response": "a", "type": "x"},
        {"problem": "q", "solution": "a"},
        {"input": "q", "output": "a"},
        {"question": "q", "target": "a"},
        CHAT,
        {"conversation": CHAT["messages"], "model": "m"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": json.dumps(CHAT["messages"])},
        {"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}},  # of `datasets`
        {"prompt": [message("user", "q")], "completion": [message("assistant", "a")]},
        {"input": [message("user", "q")], "output": "a"},
        {"prompt": "q", "completion": [message("assistant", "a")]},
        CHAT | {"system": None, "system_prompt": " ", "tools": "[]", "functions": None},
        PAIR | {"history": [], "system": "", "input": " ", "context": None, "thinking": ""},
        PAIR | {"images": [], "image": None, "label": True, "documents": ""},
        CHAT | {"prompt": "q", "chosen": CHAT["messages"], "rejected": CHAT["messages"]},
    ],
    ids=lambda row: " ".join(row),
)
def test_one_prompt_and_response_in_many_shapes(row):
    assert read(row) == ASKED


@pytest.mark.parametrize(
    "more, turns",
    [
        ({"input": "i"}, [("user", "q"), ("input", "i"), ("assistant", "a")]),
        ({"input": "", "context": "c"}, [("user", "q"), ("input", "c"), ("assistant", "a")]),
        ({"input": "i", "context": "c"}, [("user", "q"), ("input", "i\n\nc"), ("assistant", "a")]),
        ({"system": "s"}, [("system", "s"), ("user", "q"), ("assistant", "a")]),
        ({"system": "", "system_prompt": "s"},
         [("system", "s"), ("user", "q"), ("assistant", "a")]),
        ({"system": "s", "system_prompt": "s"},
         [("system", "s"), ("user", "q"), ("assistant", "a")]),
        ({"history": [["p", "b"]], "system": "s"},
         [("system", "s"), ("user", "p"), ("assistant", "b"), ("user", "q"), ("assistant", "a")]),
        ({"history": '[["p", "b"]]'},
         [("user", "p"), ("assistant", "b"), ("user", "q"), ("assistant", "a")]),
    ],
)  # fmt: skip
def test_what_stands_beside_a_pair_is_used(more, turns):
    assert read(PAIR | more) == example(*turns)


def test_reasoning_and_tools_beside_a_pair_are_used():
    tools = [{"name": "f", "parameters": {"b": 1, "a": 2}}]
    found = read(PAIR | {"reasoning_content": "r", "tools": tools})
    whole = '[{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}]'
    assert found == example(("user", "q"), ("assistant", "a"), tools=whole, reasoning="r")
    assert read(PAIR | {"thinking": "r"}) == example(
        ("user", "q"), ("assistant", "a"), reasoning="r"
    )
    mapped = read(PAIR | {"reasoning": "r"}, columns={"reasoning": "reasoning"})
    assert mapped == example(("user", "q"), ("assistant", "a"), reasoning="r")
    assert read(PAIR | {"reasoning": "on"}, ignore_keys=["reasoning"]) == ASKED


def test_a_system_column_stands_before_a_chat():
    said = example(("system", "s"), ("user", "q"), ("assistant", "a"))
    assert read(CHAT | {"system": "s"}) == said
    assert read(CHAT | {"persona": "s"}, columns={"system": "persona"}) == said
    for own in ("s", "", None):  # the chat's own turn is the same, or empty
        chat = {"messages": [message("system", own), *CHAT["messages"]]}
        assert read(chat | {"system": "s"}) == said
    other = {"messages": [message("system", "t"), *CHAT["messages"]], "system": "s"}
    assert refused(other) == "'system' differs from the chat's own system turn"
    assert read(other | {"system": None}).turns[0] == {"role": "system", "text": "t"}


def test_a_prompt_of_messages_has_no_labels():
    """As in TRL, which trains on the completion."""
    prompt = [message("user", "p"), message("assistant", "b"), message("user", "q")]
    found = read({"prompt": prompt, "completion": [message("assistant", "a")]})
    assert [turn.get("train") for turn in found.turns] == [None, False, None, None]


def test_tools_are_kept_as_the_row_has_them():
    nested = [{"type": "function", "function": {"name": "f", "parameters": {"b": 1.0, "a": None}}}]
    text = '[{"type":"function","function":{"name":"f","parameters":{"b":1.0,"a":null}}}]'
    for row in (
        {"tools": nested},
        {"tools": json.dumps(nested)},
        {"tools": [json.dumps(tool) for tool in nested]},
        {"functions": [nested[0]["function"]]},
        {"tools": nested, "functions": [nested[0]["function"]]},
        {"tools": None, "functions": nested},
    ):
        assert read(CHAT | row) == Example(ASKED.turns, text)
    assert read(CHAT | {"apis": nested}, columns={"tools": "apis"}).tools == text
    # In Arrow a struct has the keys of all rows: there a null is an absent key.
    assert read(CHAT | {"tools": nested}, typed=True).tools == text.replace(',"a":null', "")
    assert read(CHAT | {"tools": "[]"}).tools is None
    assert read(CHAT | {"tools": {}}).tools is None


@pytest.mark.parametrize(
    "row, reason",
    [
        (["a"], "not an object: got a list"),
        (PAIR | {"output": 7}, "wrong type of 'output': expected a string, got a number"),
        (PAIR | {"output": ["a"]}, "wrong type of 'output': expected a string, got a list"),
        (PAIR | {"output": []}, "wrong type of 'output': expected a string, got a list"),
        (PAIR | {"instruction": ""}, "empty field 'instruction'"),
        (PAIR | {"context": ["c"]}, "wrong type of 'context': expected a string, got a list"),
        (PAIR | {"system": "s", "system_prompt": "t"}, "'system' and 'system_prompt' differ"),
        (PAIR | {"history": [["p"]]}, "wrong type of 'history': expected two strings as pair 1"),
        (PAIR | {"history": "p"}, "wrong type of 'history': expected a list or its JSON text"),
        (PAIR | {"history": {"p": "b"}},
         "wrong type of 'history': expected a list of [prompt, response], got an object"),
        (PAIR | {"history": [["p", " "]]}, "empty text in 'history': pair 1"),
        (PAIR | {"reasoning": "r"},
         "column 'reasoning': its content is not read: corpus.ignore_keys: [reasoning] leaves it "
         "out"),
        (PAIR | {"thinking": True}, "wrong type of 'thinking': expected a string, got a boolean"),
        (PAIR | {"reasoning_content": "r", "thinking": "s"},
         "'reasoning_content' and 'thinking' differ"),
        ({"prompt": "q", "completion": [message("assistant", "a"), message("user", "u")],
          "thinking": "r"},
         "'thinking' beside a chat: got a response of 2 messages"),
        (PAIR | {"images": ["a.png"]}, "column 'images': media are not supported"),
        (CHAT | {"image": "a.png"}, "column 'image': media are not supported"),
        (CHAT | {"audio": {"path": "a.wav"}}, "column 'audio': media are not supported"),
        (CHAT | {"history": [["p", "b"]]}, "column 'history': its content is not read"),
        (CHAT | {"chat_template_kwargs": {"enable_thinking": False}},
         "column 'chat_template_kwargs': its content is not read"),
        (PAIR | {"instruction": "<image>\nWhat is it?"},
         "placeholder of an image, video or audio: media are not supported: <image> in a turn of "
         "role user"),
        (PAIR | {"label": False}, "marked as a bad answer: 'label' is false"),
        (CHAT | {"label": False}, "marked as a bad answer: 'label' is false"),
        ({"messages": "text"}, "wrong type of 'messages': expected a list or its JSON text"),
        ({"messages": '{"role": "user"}'},
         "wrong type of 'messages': expected a list, got the JSON text of an object"),
        ({"messages": '[{"role": "user", "role": "user"}]'}, "duplicate key: 'role'"),
        ({"messages": {"role": ["user"], "content": []}},
         "wrong type of 'messages': expected a list, got an object"),
        ({"messages": ["text"]}, "wrong type in 'messages': expected an object as message 1"),
        ({"messages": []}, "no assistant turn: 0 messages"),
        ({"messages": [message("user", "u")]}, "no assistant turn: 1 messages"),
        ({"messages": [message("user", "u"), message("assistant", "a", weight=0)]},
         "no trained assistant turn: 2 messages"),
        ({"messages": [message("assistant", "a"), message("user", "u")]},
         "the first turn is the assistant's"),
        (CHAT | {"tools": {"name": "f"}},
         "wrong type of 'tools': expected a list of tools, got an object"),
        (CHAT | {"tools": [1]}, "wrong type of 'tools': expected an object as tool 1"),
        (CHAT | {"tools": "[{"}, "not JSON: 'tools': Expecting property name"),
        (CHAT | {"tools": [{"name": "f"}], "functions": [{"name": "g"}]},
         "'tools' and 'functions' differ"),
        (CHAT | {"tools": [{"name": "f", "parameters": float("nan")}]},
         "not JSON: a tool or a call: Out of range float values"),
        ({"prompt": [message("assistant", "a")], "completion": "b", "context": "c"},
         "'context' beside a chat: got a prompt that ends with the role assistant"),
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_is_no_example_says_why(row, reason):
    assert refused(row).startswith(reason)


@pytest.mark.parametrize(
    "text", ["Draw <image>", "<|image|>Hi", "<video>\nWhat?", "What is this? <audio>"]
)
def test_placeholders_of_media(text):
    assert "media are not supported" in refused(PAIR | {"instruction": text})
    assert "media are not supported" in refused(PAIR | {"input": text})
    assert read(PAIR | {"output": text}).turns[1]["text"] == text  # an answer about markup


@pytest.mark.parametrize(
    "text",
    ["<image>logo.png</image> in RSS", "What does the <video> tag do?", "a < b", "<img src=x>"],
)
def test_markup_is_no_placeholder(text):
    assert read(PAIR | {"instruction": text}).turns[0]["text"] == text


def test_values_of_other_libraries_beside_an_example():
    """A Ray Dataset may have columns of arrays."""
    row = PAIR | {"embedding": np.zeros(3)}
    assert read(row, typed=True) == ASKED
    assert refused(PAIR | {"output": np.zeros(3)}).startswith("wrong type of 'output'")
    assert refused(PAIR | {"images": np.zeros(3)}).startswith("column 'images'")


def test_columns_that_are_left_out_by_name():
    row = PAIR | {"images": ["a.png"], "label": False, "context": "c", "source": "s"}
    settings = row_settings_of(CorpusConfig(path="-", ignore_keys=["images", "label", "context"]))
    assert parse(row, settings) == ("s", ASKED)
    config = CorpusConfig(path="-", ignore_keys=[*row.keys() - PAIR.keys()])
    assert parse(row, row_settings_of(config)) == ("default", ASKED)
