"""Small tokenizers with the chat templates that the package trl ships, and conversations.

No template is written here: a family without a shipped template is not tested.
"""

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN3 = [*CHATML, "<think>", "</think>", "<tool_call>", "</tool_call>"]
LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
          "<|eom_id|>", "<|python_tag|>"]  # fmt: skip
BAR = "\uff5c"  # the fullwidth bar of DeepSeek's tokens
DEEPSEEK = [f"<{BAR}{name}{BAR}>" for name in (
    "begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant", "tool▁calls▁begin",
    "tool▁calls▁end", "tool▁call▁begin", "tool▁call▁end", "tool▁sep", "tool▁outputs▁begin",
    "tool▁outputs▁end", "tool▁output▁begin", "tool▁output▁end",
)] + ["<think>", "</think>"]  # fmt: skip
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
COHERE = ["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>",
          "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"]  # fmt: skip
PHI = ["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
GLM = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>",
       "<|observation|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>",
       "</arg_key>", "<arg_value>", "</arg_value>"]  # fmt: skip
GPT_OSS = ["<|startoftext|>", "<|endoftext|>", "<|start|>", "<|end|>", "<|return|>", "<|call|>",
           "<|channel|>", "<|message|>", "<|constrain|>"]  # fmt: skip
NEMOTRON = [*QWEN3, "<s>"]

# template: its special tokens, the end and the begin token
FAMILIES = {
    "qwen2_5": (CHATML, "<|im_end|>", None),
    "qwen3": (QWEN3, "<|im_end|>", None),
    "qwen3_instruct_2507": (QWEN3, "<|im_end|>", None),
    "qwen3_5_think": (QWEN3, "<|im_end|>", None),
    "qwen3_5_nothink": (QWEN3, "<|im_end|>", None),
    "qwen3_6": (QWEN3, "<|im_end|>", None),
    "deepseek_r1_distill": (DEEPSEEK, DEEPSEEK[1], DEEPSEEK[0]),
    "deepseekv3": (DEEPSEEK, DEEPSEEK[1], DEEPSEEK[0]),
    "glm4moe": (GLM, "<|endoftext|>", None),
    "gptoss": (GPT_OSS, "<|return|>", "<|startoftext|>"),
    "llama3": (LLAMA3, "<|eot_id|>", "<|begin_of_text|>"),
    "llama3_1": (LLAMA3, "<|eot_id|>", "<|begin_of_text|>"),
    "llama3_2": (LLAMA3, "<|eot_id|>", "<|begin_of_text|>"),
    "gemma": (GEMMA, "<eos>", "<bos>"),
    "gemma3": (GEMMA, "<eos>", "<bos>"),
    "phi3": (PHI, "<|endoftext|>", "<s>"),
    "phi3_5": (PHI, "<|endoftext|>", "<s>"),
    "cohere": (COHERE, "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>"),
    "cohere2": ([*COHERE, "<|START_RESPONSE|>", "<|END_RESPONSE|>"], "<|END_OF_TURN_TOKEN|>",
                "<BOS_TOKEN>"),
    "nemotron_3_nano": (NEMOTRON, "<|im_end|>", "<s>"),
    "nemotron_3_super": (NEMOTRON, "<|im_end|>", "<s>"),
    "lfm2": (["<|startoftext|>", *CHATML], "<|im_end|>", "<|startoftext|>"),
}  # fmt: skip

CALL = json.dumps([{
    "id": "c1", "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}])  # fmt: skip
TOOLS = json.dumps([{"type": "function", "function": {
    "name": "weather", "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}}])  # fmt: skip


def said(role, text, **more):
    return {"role": role, "text": text} | more


ASK, FOUR = said("user", "What is 2+2?"), said("assistant", "Four.")
AGAIN, SIX = said("user", "And 3+3?"), said("assistant", "Six.")
WEATHER = [said("user", "Weather in Oslo?"), said("assistant", "", tool_calls=CALL)]

# conversation: its turns, and its tools
SHAPES = {
    "single": ([ASK, FOUR], None),
    "multi": ([ASK, FOUR, AGAIN, SIX], None),
    "system": ([said("system", "Be terse."), ASK, FOUR], None),
    "empty system": ([said("system", ""), ASK, FOUR], None),
    "input": ([said("user", "Add."), said("input", "2 and 2"), FOUR], None),
    "two users": ([said("user", "Hello."), ASK, FOUR], None),
    "trailing user": ([ASK, FOUR, said("user", "Thanks.")], None),
    "masked": ([ASK, said("assistant", "Five.", train=False), said("user", "No."), FOUR], None),
    "reasoning": ([ASK, said("assistant", "Four.", reasoning="Two and two.")], None),
    "reasoning twice": (
        [ASK, said("assistant", "Four.", reasoning="Two and two."),
         AGAIN, said("assistant", "Six.", reasoning="Twice three.")], None),
    "tools": ([*WEATHER, said("tool", '{"t": 3}', name="weather", tool_call_id="c1"),
               said("assistant", "It is 3 degrees.")], TOOLS),
    "call": (WEATHER, TOOLS),
}  # fmt: skip

WORDS = "What is 2+2? Four. And 3+3? Six. Be terse. Hello. Thanks. Two and two. Twice three. "
WORDS += "Weather in Oslo? It is 3 degrees. user assistant system think function parameters "


def template(name):
    """The text of a chat template that trl ships."""
    return (folder() / f"{name}.jinja").read_text(encoding="utf-8")


def folder():
    [place] = find_spec("trl").submodule_search_locations
    return Path(place, "chat_templates")


@lru_cache
def _bpe():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    bpe.train_from_iterator([WORDS] * 4, trainer)
    return bpe.to_str()


def tokenizer_of(name, chat_template=None):
    """A small tokenizer with a family's special tokens and its chat template (or another)."""
    special, end, begin = FAMILIES[name]
    bpe = Tokenizer.from_str(_bpe())
    bpe.add_special_tokens(special)
    found = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, bos_token=begin)
    found.chat_template = chat_template or template(name)
    return found
