"""Chats that once went wrong, as tests/cases has them, with the label tokens that are right."""

import json
from pathlib import Path

import pytest
from support.chat_families import BAR, tokenizer_of

from s2l_ray.config import PromptConfig
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.tokenization import encode

CASES = Path(__file__).resolve().parents[1] / "cases"
EOS = f"<{BAR}end▁of▁sentence{BAR}>"
DEGREES = "It is 3 degrees.<|im_end|>\n"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n'


def examples(case):
    """The rows of a case as the corpus has them."""
    found = []
    for line in (CASES / f"{case}.jsonl").read_text().splitlines():
        row = json.loads(line)
        turns = []
        for message in row["messages"]:
            turn = {"role": message["role"], "text": message["content"] or ""}
            if thought := message.get("reasoning_content") or message.get("thinking"):
                turn["reasoning"] = thought
            if "tool_calls" in message:
                turn["tool_calls"] = json.dumps(message["tool_calls"])
            if message.get("weight") == 0:
                turn["train"] = False
            turns.append(turn)
        found.append(Example(turns, json.dumps(row["tools"]) if "tools" in row else None))
    return found


@pytest.mark.parametrize(
    ("case", "family", "labels"),
    [
        ("t01_qwen3_multi_turn", "qwen3", [["Four.<|im_end|>\n", "Six.<|im_end|>\n"]]),
        ("t02_deepseek_single_turn", "deepseek_r1_distill", [["Four." + EOS]]),
        ("t02_deepseek_single_turn", "deepseekv3", [["Four." + EOS]]),
        (
            "t03_gptoss_multi_turn",
            "gptoss",
            [
                [
                    "<|channel|>final<|message|>Four.<|end|>",
                    "<|channel|>final<|message|>Six.<|return|>",
                ]
            ],
        ),
        ("t04_glm_stop_token", "glm4moe", [["Four.<|user|>", "Six.<|user|>"]]),
        (
            "c01_reasoning",
            "qwen3",
            [
                ["<think>\nSeven eights are fifty-six.\n</think>\n\n56<|im_end|>\n"],
                ["<think>\n8*8 is 64, less 8 is 56.\n</think>\n\n56<|im_end|>\n"],
                ["<think>\nNine nines.\n</think>\n\n81<|im_end|>\n"],
            ],
        ),
        ("c03_tool_turns", "qwen3", [[CALL, DEGREES]]),
        ("c03_tool_turns", "qwen2_5", [[CALL, DEGREES]]),
        ("c08_weight", "qwen3", [["Four.<|im_end|>\n"]]),
        ("c08_weight", "llama3", [["Four.<|eot_id|>"]]),
    ],
)
def test_the_labels_of_a_case(case, family, labels):
    tokenizer = tokenizer_of(family)
    rows = encode(examples(case), PromptConfig(template="chat", max_length=10_000), tokenizer)
    found = []
    for ids, mask, *_ in rows:
        runs = [[]]
        for token, is_label in zip(ids, mask, strict=True):
            if is_label:
                runs[-1].append(token)
            elif runs[-1]:
                runs.append([])
        found.append([tokenizer.decode(run) for run in runs if run])
    assert found == labels


def test_the_text_of_a_deepseek_answer():
    tokenizer = tokenizer_of("deepseek_r1_distill")
    [(ids, *_)] = encode(
        examples("t02_deepseek_single_turn"), PromptConfig(template="chat"), tokenizer
    )
    assert tokenizer.decode(ids) == (
        f"<{BAR}begin▁of▁sentence{BAR}><{BAR}User{BAR}>What is 2+2?<{BAR}Assistant{BAR}>Four.{EOS}"
    )


def test_an_empty_system_turn_changes_nothing():
    tokenizer = tokenizer_of("llama3")
    [(ids, *_)] = encode(examples("t06_empty_system"), PromptConfig(template="plain"), tokenizer)
    assert tokenizer.decode(ids) == "What is 2+2?\nFour.<|eot_id|>"
