"""How a model is loaded for training: precision of its file, mapped memory, a tiny stand-in."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.models import config_of
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import ModelConfig
from s2l_ray.models.loading import Placing, initial_model, stored_dtype
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.properties import check_causal, head_is_apart, tiny_like, trial_model
from s2l_ray.models.sharding import in_a_file

WIDE = {"vocab_size": 5000, "hidden_size": 96, "num_attention_heads": 12, "num_hidden_layers": 6,
        "intermediate_size": 200}  # fmt: skip
GROUPED = WIDE | {"num_key_value_heads": 4, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
KINDS = {
    "llama": GROUPED,
    "gpt_neox": WIDE,
    "gpt2": WIDE,
    "opt": WIDE | {"word_embed_proj_dim": 96, "ffn_dim": 200},
    "phi": WIDE,
    "gemma2": GROUPED,  # caps its logits
    "gemma3_text": GROUPED,
    "cohere": WIDE | {"num_key_value_heads": 4},  # scales them
    "granite": WIDE | {"num_key_value_heads": 4, "logits_scaling": 2.0},
    "mixtral": GROUPED | EXPERTS,
    "qwen3_moe": GROUPED | EXPERTS | {"moe_intermediate_size": 64},
    "olmo2": WIDE,
}


def mapped_from(tensor):
    """The file that a tensor's memory is mapped from; the empty string if there is none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_ = line.split(maxsplit=1)
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= tensor.data_ptr() < last:
            return "".join(line.split(maxsplit=5)[5:])
    raise AssertionError("not in memory")


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_model_has_the_properties_of_its_class(kind):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind]))
    before = model.config.to_dict()
    tiny = tiny_like(model)
    assert type(tiny) is type(model)
    assert 10 * tiny.num_parameters() < model.num_parameters()
    assert (
        head_is_apart(tiny) == head_is_apart(model) == (kind not in ("gemma2", "cohere", "granite"))
    )
    check_causal(tiny)
    assert model.config.to_dict() == before
    assert trial_model(model) is model
    next(model.parameters()).ds_id = 0  # what DeepSpeed marks a worker's share with
    assert trial_model(model).num_parameters() == tiny.num_parameters()


def test_a_tiny_model_that_is_not_causal_is_told():
    bert = AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **WIDE))
    next(bert.parameters()).ds_id = 0
    with pytest.raises(ValueError, match="attention of this bert is not causal"):
        LabelLoss(bert)


@pytest.mark.parametrize(
    "dtypes, expected",
    [
        (["bfloat16", "bfloat16", "int64"], "bfloat16"),
        (["float16"], "float16"),
        (["bfloat16", "float32"], "float32"),
        ([], "float32"),
    ],
)
def test_the_precision_of_a_file_is_the_one_that_all_its_weights_have(tmp_path, dtypes, expected):
    for number, dtype in enumerate(dtypes):
        tensors = {f"a{number}": torch.ones(2, dtype=getattr(torch, dtype))}
        save_file(tensors, tmp_path / f"model-{number}.safetensors")
    assert stored_dtype(tmp_path) == getattr(torch, expected)


def test_weights_of_the_stored_precision_are_mapped_and_not_copied(tokenizer, tmp_path):
    initial_model(config_of(), tokenizer, seed=7).to(torch.bfloat16).save_pretrained(tmp_path)
    model = initial_model(ModelConfig(name=str(tmp_path)), tokenizer, seed=1,
                          placing=Placing(dtype=None))  # fmt: skip
    assert model.dtype == torch.bfloat16
    assert all(
        mapped_from(weights).endswith("/model.safetensors") for weights in model.parameters()
    )


def test_a_model_that_is_built_in_files_has_the_same_weights(tokenizer):
    expected = initial_model(config_of(), tokenizer, seed=7).state_dict()
    with in_a_file():
        model = initial_model(config_of(), tokenizer, seed=7)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, expected[name])
        assert mapped_from(weights).endswith("/weight (deleted)")
