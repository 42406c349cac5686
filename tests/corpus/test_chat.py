"""Chats: what a template has no place for, ends that are missing, named templates, what is told."""

import json

import pytest
from support.chat_families import ASK, CALL, FOUR, SHAPES, TOOLS, WEATHER, said, tokenizer_of
from support.corpora import example, write_corpus

from s2l_ray.config import PromptConfig
from s2l_ray.corpus.chat import Chat
from s2l_ray.corpus.families import template_text, training_variant
from s2l_ray.corpus.prompts import end_tokens
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.templates import TemplateRefuses, segments
from s2l_ray.corpus.tokenization import (
    _Tokenize,
    check_tokenizer,
    encode,
    encode_table,
    tokenize,
)
from s2l_ray.store.views import TokensView

CHAT = PromptConfig(template="chat", max_length=10_000)
PLAIN = PromptConfig(template="plain")
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NAMES = TURNS.replace(
    "{{ m.content }}", "{{ m.content }}{{ m.tool_calls[0].function.name if m.tool_calls }}"
)
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chatml(template=TURNS + PROMPT):
    """A tokenizer with <|im_end|> as its end token, and a template that is made up."""
    return tokenizer_of("qwen2_5", template)


def one(turns, tokenizer, tools=None, prompt=CHAT):
    """The text, and the texts of the runs of label tokens."""
    [(ids, mask, *_)] = encode([Example(turns, tools)], prompt, tokenizer)
    runs, last = [], False
    for token, is_label in zip(ids, mask, strict=True):
        if is_label:
            runs = [*runs[:-1], [*runs[-1], token]] if last else [*runs, [token]]
        last = is_label
    return tokenizer.decode(ids), [tokenizer.decode(run) for run in runs]


def with_role(role, *, without):
    """A template that leaves out the text of a role."""
    kept = "{{ m.content if m.role != '" + role + "' }}"
    return TURNS.replace("{{ m.content }}", kept) + PROMPT if without else TURNS + PROMPT


# -- what the template leaves out


@pytest.mark.parametrize(
    ("turns", "tools", "template", "reason"),
    [
        (
            [said("system", "Be terse."), ASK, FOUR],
            None,
            # As Mistral v0.3's: the system text stands in the last user turn, unless an answer
            # follows.
            "{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0]"
            ".role == 'system' %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]"
            "{% elif m.role == 'assistant' %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}",
            r"leaves out the text of turn 1 \(system\)",
        ),
        ([ASK, FOUR], None, with_role("user", without=True), r"the text of turn 1 \(user\)"),
        ([ASK, FOUR], None, with_role("assistant", without=True), r"of turn 2 \(assistant\)"),
        ([ASK, said("assistant", "Four.", reasoning="Two and two.")], None, TURNS + PROMPT,
         "leaves out the reasoning_content of turn 2"),
        ([ASK, said("assistant", "<think>Two and two.</think>Four.")], None,
         TURNS.replace("m.content", "m.content.split('</think>')[-1]") + PROMPT,
         "leaves out the reasoning_content of turn 2"),
        (WEATHER, None, TURNS + PROMPT, "leaves out the tool_calls of turn 2"),
        (WEATHER, None, NAMES + PROMPT, "leaves out the tool_calls of turn 2"),
        ([ASK, FOUR], TOOLS, TURNS + PROMPT, "leaves out the tools"),
        ([ASK, FOUR], TOOLS, "{{ (tools or []) | length }}" + TURNS + PROMPT, "out the tools"),
    ],
)  # fmt: skip
def test_content_that_a_template_leaves_out_is_refused_by_name(turns, tools, template, reason):
    with pytest.raises(TemplateRefuses, match=reason):
        one(turns, chatml(template), tools)


def test_earlier_reasoning_may_be_left_out_by_a_template_that_prints_the_last():
    last = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}"
        "</think>{% endif %}{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    )
    turns, _ = SHAPES["reasoning twice"]
    text, labels = one(turns, chatml(last + PROMPT))
    assert "Two and two." not in text
    assert labels == ["Four.<|im_end|>\n", "<think>Twice three.</think>Six.<|im_end|>\n"]


def test_two_equal_calls_are_two():
    both = json.dumps(json.loads(CALL) * 2)
    first = TURNS.replace(
        "{{ m.content }}",
        "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}",
    )
    turns = [WEATHER[0], said("assistant", "", tool_calls=CALL)]
    assert '"arguments": {"city": "Oslo"}' in one(turns, chatml(first + PROMPT))[0]
    turns = [WEATHER[0], said("assistant", "", tool_calls=both)]
    with pytest.raises(TemplateRefuses, match="leaves out the tool_calls of turn 2"):
        one(turns, chatml(first + PROMPT))


def test_arguments_are_text_for_templates_that_join_them_to_text():
    joins = TURNS.replace(
        "{{ m.content }}",
        "{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + ':' + c.function.arguments }}{% endfor %}",
    )
    _, labels = one(WEATHER, chatml(joins + PROMPT))
    assert labels == ['weather:{"city": "Oslo"}<|im_end|>\n']
    as_object = json.loads(CALL)
    as_object[0]["function"]["arguments"] = {"city": "Oslo"}
    turns = [WEATHER[0], said("assistant", "", tool_calls=json.dumps(as_object))]
    assert one(turns, chatml(joins + PROMPT))[1] == labels
    assert one(turns, tokenizer_of("qwen3"), TOOLS) == one(WEATHER, tokenizer_of("qwen3"), TOOLS)


def test_tools_given_as_functions_alone_are_nested():
    flat = json.dumps([tool["function"] for tool in json.loads(TOOLS)])
    tokenizer = tokenizer_of("qwen3")
    assert one(WEATHER, tokenizer, flat) == one(WEATHER, tokenizer, TOOLS)


def test_a_named_template_for_tools_is_used_for_chats_with_tools():
    tokenizer = chatml(
        {"default": TURNS + PROMPT, "tool_use": tokenizer_of("qwen2_5").chat_template}
    )
    assert one([ASK, FOUR], tokenizer)[0].startswith("<|im_start|>user")
    assert "# Tools" in one([ASK, FOUR], tokenizer, TOOLS)[0]


# -- prompts without a chat template


@pytest.mark.parametrize(
    ("turns", "tools", "what"),
    [
        ([ASK, FOUR], TOOLS, "tools"),
        (WEATHER, None, "tool_calls"),
        ([ASK, said("assistant", "Four.", reasoning="2 + 2")], None, "reasoning_content"),
        ([ASK, said("tool", "4"), FOUR], None, "tool turns"),
    ],
)
def test_other_prompts_refuse_by_name_what_only_chats_have(turns, tools, what):
    told = f"prompt.template plain has no place for {what}; use prompt.template chat"
    with pytest.raises(TemplateRefuses, match=told):
        segments(Example(turns, tools), PLAIN)
    refused = {}
    [(ids, *_), (others, *_)] = encode(
        [Example(turns, tools), Example([ASK, FOUR])], PLAIN, tokenizer_of("llama3"), None, refused
    )
    assert ids == [] and others and refused == {0: told}


def test_other_prompts_have_no_labels_for_turns_that_are_not_trained_on():
    turns, _ = SHAPES["masked"]
    text, labels = one(turns, tokenizer_of("llama3"), prompt=PLAIN)
    assert text == "What is 2+2?\nFive.<|eot_id|>No.\nFour.<|eot_id|>"
    assert labels == ["Four.<|eot_id|>"]


def test_an_empty_system_turn_is_ignored():
    for tokenizer, prompt in ((tokenizer_of("llama3"), PLAIN), (tokenizer_of("qwen2_5"), CHAT)):
        for empty in ("", " \n"):
            turns = [said("system", empty), ASK, FOUR]
            assert one(turns, tokenizer, prompt=prompt) == one(
                [ASK, FOUR], tokenizer, prompt=prompt
            )


# -- ends, and what the tokenizer lacks


def test_an_answer_that_the_template_does_not_end():
    """The first ends at the token after it, as GLM's; the end token is added to the last."""
    opens = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}" + PROMPT
    tokenizer = tokenizer_of("phi3", opens.replace("<|im_start|>", "<|user|>"))
    text, labels = one(SHAPES["multi"][0], tokenizer)
    assert labels == ["Four.<|user|>", "Six.<|endoftext|>"]
    assert text.endswith("Six.<|endoftext|>")
    assert one(SHAPES["trailing user"][0], tokenizer)[1] == ["Four.<|user|>"]
    # A text may end with what is a token elsewhere.
    assert one([ASK, said("assistant", "a<|end|>")], tokenizer)[1] == ["a<|end|><|endoftext|>"]
    tokens = tokenizer.convert_ids_to_tokens(end_tokens(CHAT, tokenizer))
    assert sorted(tokens) == ["<|endoftext|>", "<|user|>"]


def test_markers_that_leave_out_the_end_of_turn():
    marked = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}"
    )
    assert one(SHAPES["multi"][0], chatml(marked + PROMPT))[1] == [
        "Four.<|im_end|>",
        "Six.<|im_end|>",
    ]


def test_markers_that_enclose_the_prompt_or_several_parts_of_an_answer():
    marked = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant"
        "\n{{ m.content }}{% endgeneration %}{% generation %}<|im_end|>\n{% endgeneration %}"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    )
    turns, _ = SHAPES["multi"]
    expected = ["Four.<|im_end|>\n", "Six.<|im_end|>\n"]
    assert one(turns, chatml(marked + PROMPT))[1] == expected
    turns, _ = SHAPES["masked"]
    assert one(turns, chatml(marked + PROMPT))[1] == expected[:1]


def test_a_tokenizer_that_lacks_what_the_template_needs():
    without = tokenizer_of("llama3")
    without.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template; set prompt\.chat_template to a file"):
        check_tokenizer(CHAT, without)
    with pytest.raises(ValueError, match=r"ends an answer with '<\|im_end\|>', which is no token"):
        check_tokenizer(CHAT, tokenizer_of("llama3", TURNS + PROMPT))
    endless = tokenizer_of("phi3", "{% for m in messages %}{{ m.content }}\n{% endfor %}")
    endless.eos_token = None
    for prompt in (CHAT, PLAIN):
        with pytest.raises(ValueError, match="no end-of-sequence token"):
            check_tokenizer(prompt, endless)


# -- templates by name, and what is told


def test_templates_by_name(tmp_path):
    assert template_text("qwen3") == tokenizer_of("qwen3").chat_template
    file = tmp_path / "mine.jinja"
    file.write_text(TURNS)
    assert template_text(str(file)) == TURNS
    with pytest.raises(
        ValueError, match=r"expected a file or the name of a family, found 'lama'.*llama3"
    ):
        template_text("lama")
    with pytest.raises(ValueError, match="found 'qwen3_training'"):
        template_text("qwen3_training")
    with pytest.raises(
        ValueError, match=r"chat_template: expected prompt\.template chat, found alpaca"
    ):
        PromptConfig(chat_template="qwen3")
    name, text = training_variant(tokenizer_of("qwen3").chat_template + "\n")
    assert name == "qwen3" and "{%- generation %}" in text
    assert training_variant(TURNS) is None


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("qwen3", "follow qwen3_training, the template that trl has for training; it keeps the "
                  "reasoning of earlier turns"),
        ("gptoss", "gptoss_training, the template that trl has for training; it leaves out the "
                   "reasoning of earlier turns"),
        ("qwen2_5", "qwen2_5_training, the template that trl has for training"),
        ("llama3_1", "labels are what the chat template adds for an assistant turn"),
    ],
)  # fmt: skip
def test_how_labels_are_found_is_told(family, told):
    assert check_tokenizer(CHAT, tokenizer_of(family)).endswith(told)
    assert check_tokenizer(PLAIN, tokenizer_of(family)) == ""


def test_a_text_that_differs_from_the_own_template_is_told_once():
    """Qwen3's own template leaves out the empty think block of an earlier answer."""
    tokenizer, differs = tokenizer_of("qwen3"), {}
    examples = [Example(SHAPES[shape][0]) for shape in ("single", "system", "multi", "multi")]
    encode(examples, CHAT, tokenizer, differs=differs)
    assert list(differs) == [2]
    here, there = differs[2].split(" instead of ")
    assert here.startswith(r"'assistant\n<think>\n\n</think>\n\nFour.<|im_end|>")
    assert there.startswith(r"'assistant\nFour.<|im_end|>\n<|im_start|>user\nAnd 3+3?")
    same = {}
    encode(examples, CHAT, tokenizer_of("qwen2_5"), differs=same)
    assert same == {}


def test_the_tokens_stage_tells_where_a_text_differs(local_ray, store):
    tokenizer_of("qwen3").save_pretrained(store.address("tokenizer"))
    rows = [example(f"p{n}", "r") for n in range(3)]
    rows[1]["turns"] = rows[1]["turns"] * 2
    corpus = write_corpus(store, rows, num_parts=1)
    work = _Tokenize(store, corpus.folder, "tokenizer", CHAT, None)
    _, stats = work({"part": corpus.parts[0]})
    file, row, told = stats["differs_first"]
    assert (file, row) == ("test.jsonl", 2)
    assert "<think>" in told
    tokens = tokenize(
        store, corpus, tokenizer_folder="tokenizer", prompt=CHAT, folder="t", fingerprint="t"
    )
    assert TokensView(tokens).labels.startswith("text and labels follow qwen3_training")
    assert TokensView(tokens).differs_first == (file, row, told)


def test_a_table_has_its_tools(store):
    """A store's rows, as encode_table takes them."""
    rows = [example("a", "b") | {"turns": WEATHER, "tools": TOOLS}]
    corpus = write_corpus(store, rows, num_parts=1)
    table = store.read_part(corpus.folder, corpus.parts[0])
    tokenizer = tokenizer_of("qwen3")
    [row] = encode_table(table, CHAT, tokenizer).to_pylist()
    [(ids, mask, *_)] = encode([Example(WEATHER, TOOLS)], CHAT, tokenizer)
    assert (row["input_ids"], row["loss_mask"]) == (ids, mask)
    assert Chat(tokenizer, tools=True).prints_tools
