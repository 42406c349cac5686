"""Label tokens of chats, for each family whose template trl ships: hand-written expectations.

Not tested, because no package ships their templates: Llama 4, Mistral v0.3 and Small, Phi-4,
SmolLM3, DeepSeek-V3.1, GLM-4.6.
"""

import hashlib
import json
from pathlib import Path

import pytest
from support.chat_families import (
    BAR,
    FAMILIES,
    SHAPES,
    folder,
    template,
    tokenizer_of,
)

from s2l_ray.config import PromptConfig
from s2l_ray.corpus.prompts import end_tokens, prompts_of
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.templates import TemplateRefuses
from s2l_ray.corpus.tokenization import encode

CHAT = PromptConfig(template="chat", max_length=10_000)
PLAIN = ("single", "multi", "system", "empty system", "input", "two users", "trailing user", "masked")  # fmt: skip  # noqa: E501


def labels_of(ids, mask, tokenizer):
    """The texts of maximal runs of label tokens."""
    runs, last = [], False
    for token, is_label in zip(ids, mask, strict=True):
        if is_label:
            runs = [*runs[:-1], [*runs[-1], token]] if last else [*runs, [token]]
        last = is_label
    return [tokenizer.decode(run) for run in runs]


def plain(end, last=None, before="", **others):
    """The labels of conversations without reasoning and tools, and those of the others.

    end: what ends an answer; last: what ends one that ends the text.
    """
    end, last = before + "{}" + end, before + "{}" + (end if last is None else last)
    four, six = last.format("Four."), last.format("Six.")
    return {
        "single": [four],
        "multi": [end.format("Four."), six],
        "system": [four],
        "empty system": [four],
        "input": [four],
        "two users": [four],
        "trailing user": [end.format("Four.")],
        "masked": [four],
    } | others


NO_REASONING = {"reasoning": "leaves out the reasoning_content of turn 2",
                "reasoning twice": "leaves out the reasoning_content of turn 2"}  # fmt: skip
NO_TOOLS = {"tools": "leaves out the tools", "call": "leaves out the tools"}
ALTERNATE = {"two users": "roles must alternate", "tools": "roles must alternate"}
IM_END, EOT, EOS = "<|im_end|>\n", "<|eot_id|>", f"<{BAR}end▁of▁sentence{BAR}>"
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' + IM_END
XML = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"  # noqa: E501
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Oslo"}}' + EOT
GLM_CALL = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call><|observation|>"  # noqa: E501
OSS_CALL = ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>'
FINAL, THOUGHT = "<|channel|>final<|message|>", "<|channel|>analysis<|message|>"
DEGREES = "It is 3 degrees."
QWEN = {"tools": [HERMES, DEGREES + IM_END], "call": [HERMES]}
# Prompts of these end with <think>: the model is given it.
THINKING = {
    "reasoning": ["Two and two.\n</think>\n\nFour." + IM_END],
    "reasoning twice": ["Two and two.\n</think>\n\nFour." + IM_END,
                        "Twice three.\n</think>\n\nSix." + IM_END],
    "tools": [XML + IM_END, DEGREES + IM_END],
    "call": [XML + IM_END],
}  # fmt: skip
NOT_GIVEN = {
    "reasoning": ["<think>\nTwo and two.\n</think>\n\nFour." + IM_END],
    "reasoning twice": ["<think>\nTwo and two.\n</think>\n\nFour." + IM_END,
                        "<think>\nTwice three.\n</think>\n\nSix." + IM_END],
}  # fmt: skip
NEMOTRON = {
    "reasoning": ["Two and two.\n</think>\nFour." + IM_END],
    "reasoning twice": ["Four." + IM_END, "Twice three.\n</think>\nSix." + IM_END],
    "tools": [XML + "\n" + IM_END, DEGREES + IM_END],
    "call": [XML + "\n" + IM_END],
}
GEMMA = plain("<end_of_turn>\n", **NO_REASONING | NO_TOOLS | ALTERNATE)
PHI = plain("<|end|>\n", "<|end|>\n<|endoftext|>", **NO_REASONING, **NO_TOOLS)
LLAMA = plain(EOT, **NO_REASONING, tools=[LLAMA_CALL, DEGREES + EOT], call=[LLAMA_CALL])
CLOSE = "<|END_OF_TURN_TOKEN|>"

# family: conversation: the labels, or why the template refuses
EXPECTED = {
    "qwen2_5": plain(IM_END, **NO_REASONING, **QWEN),
    "qwen3": plain(IM_END, **NOT_GIVEN, **QWEN),
    "qwen3_instruct_2507": plain(IM_END, **NO_REASONING, **QWEN),
    "qwen3_5_think": plain(IM_END, **THINKING),
    "qwen3_5_nothink": plain(IM_END, **THINKING | NOT_GIVEN),
    "qwen3_6": plain(IM_END, **THINKING),
    "deepseek_r1_distill": plain(EOS, **NO_REASONING, **NO_TOOLS),
    "deepseekv3": plain(EOS, **NO_REASONING, **NO_TOOLS),
    "glm4moe": plain(
        "<|user|>",
        reasoning=["\n<think>Two and two.</think>\nFour.<|user|>"],
        **{"reasoning twice": ["Four.<|user|>", "\n<think>Twice three.</think>\nSix.<|user|>"]},
        tools=[GLM_CALL, DEGREES + "<|user|>"],
        call=[GLM_CALL],
    ),
    "gptoss": plain(
        "<|end|>", "<|return|>", FINAL,
        reasoning=[f"{THOUGHT}Two and two.<|end|><|start|>assistant{FINAL}Four.<|return|>"],
        **{"reasoning twice": [
            f"{FINAL}Four.<|end|>",
            f"{THOUGHT}Twice three.<|end|><|start|>assistant{FINAL}Six.<|return|>",
        ]},
        tools=[OSS_CALL, f"{FINAL}{DEGREES}<|return|>"],
        call=[OSS_CALL],
    ),
    "llama3": plain(EOT, **NO_REASONING, **NO_TOOLS),
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,
    "gemma": GEMMA | {"system": "System role not supported"},
    "gemma3": GEMMA,
    "phi3": PHI,
    "phi3_5": PHI,
    "cohere": plain(CLOSE, **NO_REASONING | NO_TOOLS | ALTERNATE),
    "cohere2": plain(f"<|END_RESPONSE|>{CLOSE}", **NO_REASONING | NO_TOOLS | ALTERNATE),
    "nemotron_3_nano": plain(IM_END, **NEMOTRON),
    "nemotron_3_super": plain(IM_END, **NEMOTRON),
    "lfm2": plain(
        IM_END, **NO_REASONING,
        tools="leaves out the tool_calls of turn 2", call="leaves out the tool_calls of turn 2",
    ),
}  # fmt: skip


def messages_of(turns):
    """The turns as apply_chat_template takes them: objects as arguments, no empty system turn."""
    found = []
    for turn in turns:
        message = {"role": turn["role"], "content": turn["text"]}
        if turn["role"] == "input":
            found[-1] = {"role": "user", "content": found[-1]["content"] + "\n\n" + turn["text"]}
            continue
        if "reasoning" in turn:
            message["reasoning_content"] = turn["reasoning"]
        if "tool_calls" in turn:
            message["tool_calls"] = json.loads(turn["tool_calls"])
            for call in message["tool_calls"]:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        message |= {key: turn[key] for key in ("name", "tool_call_id") if key in turn}
        if message != {"role": "system", "content": ""}:
            found.append(message)
    return found


def rendered(tokenizer, name, turns, tools, **options):
    """What transformers renders with a template, on the day that all text is of."""
    text = template(name).replace('strftime_now("%Y-%m-%d")', '"2024-07-26"')
    return tokenizer.apply_chat_template(
        messages_of(turns), tools=tools and json.loads(tools), chat_template=text, tokenize=False,
        date_string="26 Jul 2024", **options,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_labels_of_a_family(family):
    """The text is what the family's template for training renders, if there is one; labels are the
    answers with their end-of-turn token, the first of several as well as the last."""
    assert EXPECTED.keys() == FAMILIES.keys()
    assert EXPECTED[family].keys() == SHAPES.keys()
    tokenizer = tokenizer_of(family)
    training = f"{family}_training"
    used = training if (folder() / f"{training}.jinja").exists() else family
    for shape, (turns, tools) in SHAPES.items():
        expected = EXPECTED[family][shape]
        if isinstance(expected, str):
            with pytest.raises(TemplateRefuses, match=expected):
                encode([Example(turns, tools)], CHAT, tokenizer)
            continue
        [(ids, mask, *_)] = encode([Example(turns, tools)], CHAT, tokenizer)
        assert labels_of(ids, mask, tokenizer) == expected, shape
        assert tokenizer.decode(ids) == rendered(tokenizer, used, turns, tools), shape


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_end_as_the_generation_prompt_of_the_family(family):
    tokenizer = tokenizer_of(family)
    for shape in ("single", "input"):
        turns, tools = SHAPES[shape]
        [ids] = prompts_of([Example(turns, tools)], CHAT, tokenizer)
        asked = rendered(tokenizer, family, turns[:-1], tools, add_generation_prompt=True)
        assert ids == tokenizer(asked, add_special_tokens=False)["input_ids"]


def test_the_tokens_that_end_generation():
    found = {
        family: tokenizer_of(family).convert_ids_to_tokens(end_tokens(CHAT, tokenizer_of(family)))
        for family in ("qwen3", "glm4moe", "gptoss", "phi3", "gemma3")
    }
    assert {family: sorted(tokens) for family, tokens in found.items()} == {
        "qwen3": ["<|im_end|>"],
        "glm4moe": ["<|endoftext|>", "<|user|>"],
        "gptoss": ["<|return|>"],
        "phi3": ["<|endoftext|>", "<|end|>"],
        "gemma3": ["<end_of_turn>", "<eos>"],
    }


def test_labels_that_were_right_before_chats_had_families():
    """Token for token, as version 0.1.0 made them."""
    golden = json.loads(Path(__file__, "../../golden/chat_labels.json").resolve().read_text())
    assert len(golden) == 10
    for family, shapes in golden.items():
        tokenizer = tokenizer_of(family)
        for shape, expected in shapes.items():
            [(ids, mask, *_)] = encode([Example(*SHAPES[shape])], CHAT, tokenizer)
            runs = [[]]
            for token, is_label in zip(ids, mask, strict=True):
                if is_label:
                    runs[-1].append(tokenizer.convert_ids_to_tokens(token))
                elif runs[-1]:
                    runs.append([])
            assert {
                "ids": hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16],
                "tokens": len(ids),
                "labels": [" ".join(run) for run in runs if run],
            } == expected, (family, shape)
