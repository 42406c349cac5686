"""Weights counted by the headers of files, held against the models themselves."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.models import headers, properties
from s2l_ray.models.headers import parameters_at_work, shapes_in

SIZES = {
    "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
KINDS = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("gpt2", {}),
    ("gpt_neox", {}),
    ("opt", {"word_embed_proj_dim": 8, "ffn_dim": 32}),
    ("bloom", {}),
    ("mixtral", {"num_local_experts": 4, "num_key_value_heads": 2}),
    (
        "qwen2_moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
        },
    ),
    ("gemma2", {"head_dim": 8}),
    ("mamba", {}),
]


def saved(folder, kind, more, **how):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | more))
    model.save_pretrained(folder, **how)
    return model, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(("kind", "more"), KINDS, ids=lambda each: each if each else "plain")
def test_headers_tell_what_the_model_would(store, tmp_path, kind, more):
    folder = tmp_path / "model"
    _, config = saved(folder, kind, more)
    shapes = shapes_in(store, str(folder))
    for share in (0.0, 0.25, 1.0):
        wanted = properties.parameters_at_work(config, share)
        assert parameters_at_work(shapes, config, share) == wanted


def test_shards_and_long_headers_in_the_run_directory(store, tmp_path, monkeypatch):
    folder = tmp_path / "run/proxy/checkpoint-000005"
    model, _ = saved(folder, "llama", {}, max_shard_size="10KB")
    assert len([*folder.glob("model-*.safetensors")]) > 1
    monkeypatch.setattr(headers, "FIRST", 20)  # a header takes two reads
    shapes = shapes_in(store, "proxy/checkpoint-000005")
    assert shapes == {name: tuple(of.shape) for name, of in model.state_dict().items()}


def test_no_weights_are_read(store, tmp_path):
    folder = tmp_path / "model"
    saved(folder, "llama", {})
    file = folder / "model.safetensors"
    whole = shapes_in(store, str(folder))
    file.write_bytes(file.read_bytes()[: -torch.finfo(torch.float32).bits])  # the last weights cut
    assert shapes_in(store, str(folder)) == whole


def test_what_tells_nothing(store, tmp_path):
    assert shapes_in(store, "proxy/none") is None
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert shapes_in(store, str(tmp_path)) is None
    unnamed = {"body.weight": (4, 4)}  # neither a head nor embeddings of tokens
    assert parameters_at_work(unnamed, {"vocab_size": 100}, 1.0) is None
