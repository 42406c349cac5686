"""Models from scratch and pretrained ones; what is refused."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from support.corpora import write_corpus
from support.models import EXAMPLES, config_of
from transformers import AutoModelForCausalLM

from s2l_ray.config import ModelConfig
from s2l_ray.corpus.tokenizer import prepare_tokenizer
from s2l_ray.models.loading import initial_model, load_model


def test_initial_model_is_the_seed_s(tokenizer):
    torch.manual_seed(1)
    first = initial_model(config_of(), tokenizer, seed=7).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))  # the caller's random numbers are its own
    second = initial_model(config_of(), tokenizer, seed=7).state_dict()
    other = initial_model(config_of(), tokenizer, seed=8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert first["lm_head.weight"].shape == (320, 32)
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}


def test_initial_model_s_config(tokenizer):
    config = initial_model(config_of(rope_theta=500.0, vocab_size=384), tokenizer, seed=0).config
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.vocab_size == 384
    assert config.rope_parameters["rope_theta"] == 500.0  # an older name that transformers takes
    gpt2 = ModelConfig(
        architecture={"model_type": "gpt2", "hidden_size": 32, "num_attention_heads": 2,
                      "num_hidden_layers": 1},
        tokenizer_vocab=320,
    )  # fmt: skip
    assert initial_model(gpt2, tokenizer, seed=0).config.n_embd == 32
    with pytest.raises(ValueError, match=r"llama has no field hiden_size, layers$"):
        initial_model(config_of(layers=3, hiden_size=64), tokenizer, seed=0)
    with pytest.raises(ValueError, match="found vocab_size 100, expected at least 320"):
        initial_model(config_of(vocab_size=100), tokenizer, seed=0)


def test_a_pretrained_model_is_loaded_as_it_is(store, tokenizer):
    model = initial_model(config_of(), tokenizer, seed=7).to(torch.bfloat16)
    model.save_pretrained(store.address("folder"))
    loaded = initial_model(ModelConfig(name=store.address("folder")), tokenizer, seed=1)
    assert loaded.dtype == torch.float32
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.float())
    assert load_model(store.address("folder"), dtype="bfloat16").dtype == torch.bfloat16


def test_a_pretrained_model_that_lacks_a_weight_is_refused(tokenizer, tmp_path):
    initial_model(config_of(tie_word_embeddings=False), tokenizer, seed=0).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"not a complete model: missing weights lm_head\.weight"):
        initial_model(ModelConfig(name=str(tmp_path)), tokenizer, seed=0)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("model.safetensors", b"<html>" * 30, "not a complete model: .* header too large"),
        (
            "config.json",
            {"intermediate_size": 48},
            r"mismatched weights model\.layers\.0\.mlp\.down_proj\.weight of size \[32, 64\], "
            r"which config\.json has as \[32, 48\] \(6 in all\)",
        ),
    ],
)
def test_a_pretrained_model_that_is_damaged_is_refused(tokenizer, tmp_path, file, content, message):
    """Once, in a sentence: anything but a ValueError is tried again by the training."""
    initial_model(config_of(), tokenizer, seed=0).save_pretrained(tmp_path)
    if isinstance(content, dict):
        config = json.loads((tmp_path / file).read_text()) | content
        content = json.dumps(config).encode()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        initial_model(ModelConfig(name=str(tmp_path)), tokenizer, seed=0)


def test_a_model_of_quantized_weights_is_refused_before_anything_is_trained(store, tokenizer):
    model = initial_model(config_of(), tokenizer, seed=0)
    model.save_pretrained(store.address("folder"))
    tokenizer.save_pretrained(store.address("folder"))
    file = Path(store.address("folder"), "config.json")
    quantized = {"quantization_config": {"quant_method": "fp8"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | quantized))
    config = ModelConfig(name=store.address("folder"))
    with pytest.raises(ValueError, match=r"cannot be used .* got quantized ones \(fp8\)"):
        prepare_tokenizer(store, config, store.manifest("corpus/test"), folder="other")
    with pytest.raises(
        ValueError, match="folder: expected full-precision weights"
    ):  # where its tokenizer was there already
        initial_model(config, tokenizer, seed=0)


def test_a_model_that_a_node_has_no_right_to_is_told(tokenizer, tmp_path, monkeypatch):
    gated = GatedRepoError.__new__(GatedRepoError)  # which otherwise takes an answer of the hub

    def load(*_, **__):
        raise OSError("You are trying to access a gated repo") from gated

    initial_model(config_of(), tokenizer, seed=0).save_pretrained(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(ValueError, match=r"node .* cannot read .* HF_TOKEN .* gated repo"):
        initial_model(ModelConfig(name=str(tmp_path)), tokenizer, seed=0)
    gated = None  # a full disk, or a hub that does not answer, is no such thing
    with pytest.raises(OSError, match="You are"):
        initial_model(ModelConfig(name=str(tmp_path)), tokenizer, seed=0)


def test_a_model_that_brings_code_is_refused_before_anything_is_trained(store, tokenizer, tmp_path):
    folder = tmp_path / "strange"
    tokenizer.save_pretrained(folder)
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "config.Strange"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "config.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    examples = write_corpus(store, EXAMPLES[:3])
    with pytest.raises(ValueError, match=r"strange' cannot be used .*code .* is never run"):
        prepare_tokenizer(store, ModelConfig(name=str(folder)), examples, folder="other")
    assert not (tmp_path / "ran").exists()
