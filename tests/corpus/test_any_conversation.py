"""Conversations of any roles, parts, tools and masks: however a row writes one, it is the same one,
and its label tokens are those of the answers that are trained.

Each property has some cases in `make test`, and 500 more in the slow slice.
"""

import json
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chat_families import tokenizer_of
from support.parsed import FIXED

from s2l_ray.config import CorpusConfig, PromptConfig
from s2l_ray.corpus.shapes import parse, row_settings_of
from s2l_ray.corpus.tokenization import encode

FEW, MANY = settings(max_examples=25, **FIXED), settings(max_examples=500, **FIXED)
ROWS = row_settings_of(CorpusConfig(path="-"))

# Words that templates, JSON and shapes could take for something else.
words = st.sampled_from(
    [
        "a",
        "Hi",
        "é",
        "日本",
        "🙂",
        "{{ x }}",
        "{% if %}",
        '"',
        "\\n",
        "<b>",
        "[]",
        "null",
        "</think",
        "### Response:",
        "\t",
        "\u200d",
        "0",
        "'",
        "&amp;",
    ]
)
texts = st.lists(
    st.one_of(words, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
)
text = texts.map(" ".join).filter(lambda found: found.strip())  # fmt: skip
name = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
arguments = st.dictionaries(name, st.one_of(text, st.integers(-9, 9), st.booleans(), st.none()),
                            max_size=3)  # fmt: skip
call = st.fixed_dictionaries({"name": name, "arguments": arguments})
tool = st.fixed_dictionaries(
    {"name": name, "description": text, "parameters": st.just({"type": "object", "properties": {}})}
)


@st.composite
def conversations(draw, *, tools):
    """Turns as a person would describe them: role, text, and what else there is."""
    turns = [{"role": "system", "text": draw(text)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        turns.append({"role": "user", "text": draw(text)})
        if tools and draw(st.booleans()):
            turns.append({"role": "assistant", "text": draw(st.one_of(st.just(""), text)),
                          "calls": draw(st.lists(call, min_size=1, max_size=2)),
                          "train": draw(st.booleans())})  # fmt: skip
            turns.append({"role": "tool", "text": draw(text)})
        answer = {"role": "assistant", "text": draw(text), "train": draw(st.booleans())}
        if tools and draw(st.booleans()):
            answer["reasoning"] = draw(text)
        turns.append(answer)
    turns[-1]["train"] = True
    given_tools = draw(st.lists(tool, max_size=2)) if tools else []
    return turns, given_tools


# -- ways to write them

NAMES = {
    "system": ["system", "System", "developer"],
    "user": ["user", "human", " User", "prompter"],
    "assistant": ["assistant", "gpt", "bot", "Assistant "],
    "tool": ["tool", "observation", "tool_response"],
}
MASKS = [("weight", 1, 0), ("train", True, False), ("loss", 1, 0), ("mask", 0, 1),
         ("weight", 1.0, 0.0)]  # fmt: skip


@st.composite
def writings(draw, conversation):
    """A row that says a conversation, in one of the ways that there are."""
    turns, tools = conversation
    share_gpt = draw(st.booleans())
    role_key, text_key = ("from", "value") if share_gpt else ("role", "content")
    mask, yes, no = draw(st.sampled_from(MASKS))
    says_all = draw(st.booleans())
    messages = []
    for turn in turns:
        message = {role_key: draw(st.sampled_from(NAMES[turn["role"]]))}
        message[text_key] = turn["text"]
        if not share_gpt and turn["text"] and draw(st.booleans()):
            cut = draw(st.integers(0, len(turn["text"])))
            parts = [turn["text"][:cut], turn["text"][cut:]]
            kinds = draw(st.lists(st.sampled_from(["text", "input_text", None]), min_size=2,
                                  max_size=2))  # fmt: skip
            message[text_key] = [
                {"type": kind, "text": part} if kind else part
                for kind, part in zip(kinds, parts, strict=True)
            ]
        if "calls" in turn:
            found = []
            for each in turn["calls"]:
                each = dict(each)
                if draw(st.booleans()):
                    each["arguments"] = json.dumps(each["arguments"])
                found.append(each if draw(st.booleans()) else
                             {"type": "function", "function": each})  # fmt: skip
            message["tool_calls"] = found if draw(st.booleans()) else json.dumps(found)
            if not turn["text"] and draw(st.booleans()):
                message[text_key] = None
        if "reasoning" in turn:
            message[draw(st.sampled_from(["reasoning_content", "reasoning", "thinking"]))] = turn[
                "reasoning"
            ]
        if turn["role"] == "assistant" and (says_all or not turn["train"]):
            message[mask] = yes if turn["train"] else no
        if draw(st.booleans()):
            message[draw(st.sampled_from(["id", "created_at", "lang"]))] = "x"
        items = list(message.items())
        messages.append(dict(draw(st.permutations(items))))
    row = {draw(st.sampled_from(["messages", "conversations", "conversation"])): messages}
    if tools:
        written = [each if draw(st.booleans()) else {"type": "function", "function": each}
                   for each in tools]  # fmt: skip
        row["tools"] = written if draw(st.booleans()) else json.dumps(written)
    if draw(st.booleans()):
        row["source"] = "s"
    return row


def said(example):
    """What an example says, in the words of `conversations`."""
    turns = []
    for turn in example.turns:
        found = {"role": turn["role"], "text": turn["text"]}
        if turn["role"] == "assistant":
            found["train"] = turn.get("train") is not False
        if turn.get("tool_calls") is not None:
            calls = [each["function"] for each in json.loads(turn["tool_calls"])]
            found["calls"] = [
                each | {"arguments": json.loads(each["arguments"])}
                if isinstance(each["arguments"], str) else each for each in calls
            ]  # fmt: skip
        if turn.get("reasoning") is not None:
            found["reasoning"] = turn["reasoning"]
        turns.append(found)
    tools = [each["function"] for each in json.loads(example.tools or "[]")]
    return turns, tools


with_writing = conversations(tools=True).flatmap(
    lambda conversation: st.tuples(st.just(conversation), writings(conversation))
)


def check_writing(case):
    conversation, row = case
    _, example = parse(json.loads(json.dumps(row)), ROWS)
    assert said(example) == conversation


@FEW
@given(case=with_writing)
def test_a_conversation_is_the_same_however_it_is_written(case):
    check_writing(case)


@pytest.mark.slow
@MANY
@given(case=with_writing)
def test_a_conversation_is_the_same_however_it_is_written_500(case):
    check_writing(case)


# -- labels

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = PromptConfig(template="chat", max_length=10_000)


@lru_cache
def tokenizer(template):
    return tokenizer_of("qwen2_5", template)


def runs_of(ids, mask):
    """The ids of the runs of label tokens."""
    runs, last = [], False
    for token, is_label in zip(ids, mask, strict=True):
        if is_label and not last:
            runs.append([])
        if is_label:
            runs[-1].append(token)
        last = is_label
    return runs


def check_labels(conversation, template, max_length):
    turns, _ = conversation
    row = {"messages": [
        {"role": turn["role"], "content": turn["text"]}
        | ({"weight": 0} if turn.get("train") is False else {})
        for turn in turns
    ]}  # fmt: skip
    _, example = parse(row, ROWS)
    chosen = tokenizer(template)
    [(ids, mask, count, truncated)] = encode([example], PROMPT, chosen)
    whole = "".join(f"<|im_start|>{turn['role']}\n{turn['text']}<|im_end|>\n" for turn in turns)
    # Without markers the labels are all that the template adds for an answer.
    end = "<|im_end|>" if template == MARKED else "<|im_end|>\n"
    answers = [f"{turn['text']}{end}" for turn in turns if turn.get("train")]
    assert chosen.decode(ids) == whole
    assert [chosen.decode(run) for run in runs_of(ids, mask)] == answers
    assert count == sum(mask) and not truncated and not mask[0]
    # A shorter limit cuts the end, and changes nothing before it.
    short = PROMPT.model_copy(update={"max_length": max_length})
    [(cut, cut_mask, cut_count, cut_off)] = encode([example], short, chosen)
    assert cut == ids[:max_length] and cut_mask == mask[:max_length]
    assert cut_count == sum(cut_mask) and cut_off == (len(ids) > max_length)


labelled = {
    "conversation": conversations(tools=False),
    "template": st.sampled_from([CHATML, MARKED]),
    "max_length": st.integers(2, 80),
}


@FEW
@given(**labelled)
def test_the_labels_are_the_answers_that_are_trained(conversation, template, max_length):
    check_labels(conversation, template, max_length)


@pytest.mark.slow
@MANY
@given(**labelled)
def test_the_labels_are_the_answers_that_are_trained_500(conversation, template, max_length):
    check_labels(conversation, template, max_length)
