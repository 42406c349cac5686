"""Sizes in a model's config.json that would take all memory, or never finish loading."""

import json
import time

import pytest
from support.models import TINY, small_model
from transformers import CONFIG_MAPPING

from s2l_ray.config import ModelConfig
from s2l_ray.config.model_sizes import sizes_fault
from s2l_ray.corpus.tokenizer import prepare_tokenizer
from s2l_ray.models.files import folder_fault
from s2l_ray.models.loading import initial_model
from s2l_ray.models.memory import config_of

BAD = [
    (
        {"num_hidden_layers": 10**9},
        "num_hidden_layers: found 1,000,000,000, expected at most 1,000",
    ),
    ({"n_layer": 1001}, "n_layer: found 1,001, expected at most 1,000"),
    ({"encoder_layers": 10**6}, "encoder_layers: found 1,000,000, expected at most 1,000"),
    ({"layer_types": ["full_attention"] * 1001}, "layer_types: found 1,001 entries, expected at"),
    ({"num_local_experts": 10**6}, "num_local_experts: found 1,000,000, expected at most 20,000"),
    ({"hidden_size": 2**40}, "hidden_size: found 1,099,511,627,776, expected at most 134,217,728"),
    ({"vocab_size": 10**5000}, "vocab_size: found an integer beyond 64 bits, expected at most"),
    ({"text_config": {"num_hidden_layers": 10**9}}, "text_config.num_hidden_layers: found 1,000,"),
    ({"depths": [2, 10**9]}, "depths: found 1,000,000,000, expected at most 1,000"),
    ({"blocks": [{"num_layers": 10**9}]}, "blocks.num_layers: found 1,000,000,000"),
    ({"anything": list(range(100_001))}, "anything: found 100,001 entries, expected at most"),
]


@pytest.mark.parametrize(("fields", "expected"), BAD)
def test_a_config_with_such_sizes_is_refused(fields, expected):
    assert expected in sizes_fault({"model_type": "llama"} | fields)


def test_a_deep_config_is_refused():
    config = {}
    for _ in range(20):
        config = {"a": config}
    assert "nested more than 10 deep" in sizes_fault(config)


def test_configs_of_large_models_are_taken():
    large = {
        "model_type": "llama4", "num_hidden_layers": 126, "max_position_embeddings": 10_485_760,
        "vocab_size": 262_144, "vocab_size_per_layer_input": 262_144, "num_experts": 512,
        "shared_expert_intermediate_size": 16_384, "rope_theta": 5e8, "layer_norm_eps": 1e-5,
        "layer_types": ["full_attention"] * 126, "intermediate_size": 200_000,
    }  # fmt: skip
    assert sizes_fault(large) is None


@pytest.mark.slow
def test_no_default_of_transformers_is_refused():
    checked = 0
    for kind, found in CONFIG_MAPPING.items():
        try:
            fields = found().to_dict()
        except Exception:  # some need arguments or packages
            continue
        assert sizes_fault(fields) is None, kind
        checked += 1
    assert checked > 200


def test_architecture_names_the_field():
    with pytest.raises(ValueError, match=r"architecture.num_hidden_layers: found 1,000,000"):
        ModelConfig(architecture=TINY | {"num_hidden_layers": 10**6}, tokenizer_vocab=300)


@pytest.mark.parametrize(("fields", "expected"), BAD[:6:3])
def test_a_folder_is_refused_before_anything_of_it_is_built(fields, expected, tmp_path, store):
    folder = tmp_path / "model"
    small_model("llama").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    began = time.process_time()
    fault = folder_fault(folder, weights=True)
    assert fault.startswith("config.json: ") and expected in fault
    model = ModelConfig(name=str(folder))
    for use in (
        lambda: config_of(model),
        lambda: initial_model(model, None, seed=0),
        lambda: prepare_tokenizer(store, model, None, folder="tokenizers/t"),
    ):
        with pytest.raises(ValueError, match=r"cannot be used|config.json: "):
            use()
    assert time.process_time() - began < 10


def test_a_config_that_describes_more_than_the_files_hold_is_refused(tmp_path):
    """transformers would make 13 billion random weights."""
    small_model("llama").save_pretrained(tmp_path)
    assert initial_model(ModelConfig(name=str(tmp_path)), None, seed=0)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 2 * 10**8 // 3}))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"describes 4,\d{3},\d{3},\d{3} weights, and the safet"):
        initial_model(ModelConfig(name=str(tmp_path)), None, seed=0)
    assert time.process_time() - began < 10
