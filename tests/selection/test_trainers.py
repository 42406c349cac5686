"""Exports read by TRL's SFTTrainer and by `datasets`: what is learned, token by token."""

import json

import datasets
import pytest
import torch
from support.chat_families import template, tokenizer_of
from support.exports import ROWS, exported, labels_of
from transformers import AutoConfig, AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from s2l_ray.selection.exports.formats import FORMATS


@pytest.fixture
def tokenizer():
    return tokenizer_of("qwen3", template("qwen3_training"))


@pytest.fixture
def written(store, tmp_path, monkeypatch):
    """Writes chosen rows, two per part, in a format; returns the folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(name, rows):
        return store.address(exported(store, name, rows).folder)

    return write


def trainer(folder, tokenizer, dataset, **settings):
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    arguments = SFTConfig(
        str(folder), use_cpu=True, report_to="none", max_steps=1, save_strategy="no",
        per_device_train_batch_size=len(dataset), disable_tqdm=True, **settings,
    )  # fmt: skip
    return SFTTrainer(
        AutoModelForCausalLM.from_config(config), arguments, train_dataset=dataset,
        processing_class=tokenizer,
    )  # fmt: skip


def learned(found, tokenizer):
    """The text of each example's labels, a piece per run, without empty think blocks."""
    texts = [labels_of(row["input_ids"], row["labels"], tokenizer) for row in found]
    return [[text.replace("<think>\n\n</think>", "").strip() for text in each] for each in texts]


ANSWERED = ["pair", "system", "tools", "reasoning"]


def test_sft_trainer_learns_every_answer_of_messages(written, tokenizer, tmp_path):
    folder = written("trl_messages", [ROWS[name] for name in ANSWERED])
    dataset = datasets.load_dataset(folder, split="train")
    assert dataset["example_id"] == [str(2**62 + 1 + n) for n in range(len(ANSWERED))]
    made = trainer(tmp_path, tokenizer, dataset, assistant_only_loss=True)
    found = learned(made.train_dataset, tokenizer)
    assert found[:2] == [["a<|im_end|>"], ["a<|im_end|>", "b<|im_end|>"]]
    call, answer = found[2]
    assert '{"name": "f", "arguments": {"b": 2}}' in call and answer == "a<|im_end|>"
    assert found[3][0].endswith("r\n</think>\n\na<|im_end|>")
    shown = tokenizer.decode(made.train_dataset[2]["input_ids"])
    assert '"description": "d"' in shown and "<tool_response>\n3\n</tool_response>" in shown
    assert "None" not in shown and "null" not in shown
    made.train()
    assert torch.isfinite(torch.tensor(made.state.log_history[-1]["train_loss"]))


def test_sft_trainer_learns_the_completion_alone(written, tokenizer, tmp_path):
    rows = [ROWS[name] for name in ("pair", "masked", "reasoning")]
    dataset = datasets.load_dataset(written("trl_prompt_completion_messages", rows), split="train")
    found = learned(trainer(tmp_path, tokenizer, dataset).train_dataset, tokenizer)
    assert found[:2] == [["a<|im_end|>"], ["right<|im_end|>"]]
    [answer] = found[2]
    assert answer.endswith("r\n</think>\n\na<|im_end|>")


def test_sft_trainer_learns_the_text_of_a_completion(written, tokenizer, tmp_path):
    rows = [ROWS["pair"], ROWS["input"]]
    dataset = datasets.load_dataset(written("trl_prompt_completion", rows), split="train")
    made = trainer(tmp_path, tokenizer, dataset)
    assert learned(made.train_dataset, tokenizer) == [["a<|im_end|>"], ["a<|im_end|>"]]
    shown = [tokenizer.decode(row["input_ids"]) for row in made.train_dataset]
    assert shown == ["q\na<|im_end|>", "q\ni\na<|im_end|>"]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_load_dataset_reads_the_folder_of_every_format(written, name):
    """Also where the rows of later files have more: tools, calls, reasoning."""
    rich = name in ("trl_messages", "axolotl")
    rows = [ROWS["pair"]] * 3 + ([ROWS["tools"], ROWS["reasoning"]] if rich else [])
    found = datasets.load_dataset(written(name, rows), split="train")
    assert len(found) == len(rows)
    assert found["example_id"] == [str(2**62 + 1 + n) for n in range(len(rows))]
    assert found["row"] == list(range(1, len(rows) + 1))
    if name == "trl_messages":
        call = {"name": "f", "arguments": {"b": 2}}
        asked, called, result, said = found[3]["messages"]
        assert asked == {"role": "user", "content": "q"}  # no key that it did not have
        assert called["tool_calls"] == [{"type": "function", "id": "c1", "function": call}]
        assert result == {"role": "tool", "content": "3", "name": "f", "tool_call_id": "c1"}
        assert said == {"role": "assistant", "content": "a"}
        assert found[0]["tools"] is None and found[3]["tools"][0]["function"]["name"] == "f"
    if name == "axolotl":
        assert json.loads(found[3]["tools"])[0]["function"]["name"] == "f"
