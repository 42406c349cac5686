"""Rows of any content: an example that comes back from its export, or a reason; never a fault."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from support.parsed import FIXED

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.identity import content_of
from s2l_ray.corpus.rows import BadRow
from s2l_ray.corpus.shapes import parse, row_settings_of
from s2l_ray.selection.exports.rows import export_row

ROWS = row_settings_of(CorpusConfig(path="-"))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text)
anything = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(text | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
word = st.sampled_from(["a", "b\n", "é "])
call = st.fixed_dictionaries(
    {"name": word, "arguments": st.sampled_from(["{}", '{"a": 1}', {}, {"b": None, "a": [1.5]}])},
    optional={"id": st.sampled_from(["c1", None])},
)
user = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "Human"]), "content": word}, optional={"name": word}
)
assistant = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": word},
    optional={
        "reasoning_content": word,
        "tool_calls": st.lists(call, max_size=2),
        "weight": st.sampled_from([0, 1, None]),
    },
)
tool = st.fixed_dictionaries(
    {"role": st.just("tool"), "content": word}, optional={"tool_call_id": word, "name": word}
)
chat = st.lists(st.one_of(user, assistant, tool), max_size=4).map(
    lambda more: [{"role": "user", "content": "q"}, *more, {"role": "assistant", "content": "a"}]
)
tools = st.lists(st.fixed_dictionaries({"name": word, "parameters": anything}), max_size=2)
good = st.fixed_dictionaries({"messages": chat}, optional={"tools": tools, "system": word})

KEYS = ["messages", "conversations", "prompt", "completion", "instruction", "output", "input",
        "context", "system", "tools", "functions", "history", "thinking", "images", "label",
        "source"]  # fmt: skip
FIELDS = ["role", "from", "content", "value", "tool_calls", "function_call", "name", "weight",
          "mask", "thinking", "tool_call_id", "notes", "id"]  # fmt: skip
message = st.dictionaries(
    st.sampled_from(FIELDS),
    st.one_of(
        anything, st.sampled_from(["user", "assistant", "tool", "function_call"]), st.lists(call)
    ),
)
odd = st.dictionaries(
    st.sampled_from(KEYS), st.one_of(anything, chat, tools, st.lists(message, max_size=3))
)


@settings(max_examples=300, **FIXED)
@given(row=st.one_of(odd, anything), typed=st.booleans())
def test_any_row_is_an_example_or_has_a_reason(row, typed):
    try:
        source, example = parse(row, ROWS, typed=typed)
        content = content_of(example)
    except BadRow as bad:
        assert bad.reason.startswith(bad.category) and bad.category
        return
    assert isinstance(source, str) and content
    assert any(turn["role"] == "assistant" for turn in example.turns)
    check_export(source, example)


@settings(max_examples=300, **FIXED)
@given(row=good)
def test_a_chat_comes_back_from_its_export(row):
    try:
        source, example = parse(row, ROWS)
    except BadRow as bad:  # infinity in a tool's parameters
        assert bad.category == "not JSON"
        return
    assert len(example.turns) == len(row["messages"]) + ("system" in row)
    check_export(source, example)


def check_export(source, example):
    if any(turn["role"] == "input" for turn in example.turns):
        return  # it becomes part of the prompt
    exported = json.loads(json.dumps(export_row(example, "messages") | {"source": source}))
    back, again = parse(exported, ROWS)
    assert content_of(again) == content_of(example)
    assert back == source
