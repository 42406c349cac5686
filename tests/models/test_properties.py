"""Causality, positions, heads and weights that text does not reach, model by model."""

import pytest
import torch
from support.models import config_of, random_batch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import ModelConfig
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.properties import learned_positions, steady_positions


def test_a_model_whose_attention_is_not_causal_is_refused():
    bert = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "initializer_range": 0.5}  # fmt: skip

    def model(**more):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **bert, **more))

    with pytest.raises(
        ValueError, match="attention of this bert is not causal; use a decoder model"
    ):
        LabelLoss(model())
    LabelLoss(model(is_decoder=True))


def test_what_text_does_not_reach_is_not_trained():
    """DDP waits for a gradient of each weight that is."""
    text = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
              "intermediate_size": 64, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    loss = LabelLoss(AutoModelForCausalLM.from_config(config))
    loss(*random_batch()).sum().backward()
    trained = {name for name, weights in loss.named_parameters() if weights.requires_grad}
    assert trained == {n for n, weights in loss.named_parameters() if weights.grad is not None}
    others = {name for name, _ in loss.named_parameters()} - trained
    assert others and all("vision" in name or "projector" in name for name in others)


@pytest.mark.parametrize(
    ("kind", "positions"), [("llama", None), ("gpt_neox", None), ("gpt2", 64), ("opt", 64)]
)
def test_positions_of_models_that_learn_them(tokenizer, kind, positions):
    shape = {"model_type": kind, "vocab_size": 512, "max_position_embeddings": 64}
    shape |= {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}
    model = initial_model(ModelConfig(architecture=shape, tokenizer_vocab=320), tokenizer, seed=7)
    assert learned_positions(model) == positions


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "default"}, None),
        ({"rope_type": "linear", "factor": 2.0}, None),
        ({"rope_type": "dynamic", "factor": 2.0}, 64),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
          "original_max_position_embeddings": 16}, 16),
    ],
)  # fmt: skip
def test_beyond_which_length_a_loss_would_depend_on_the_batch(tokenizer, rope, positions):
    """The longest example beside it decides about its rotary embeddings there, as a trial shows."""
    model = initial_model(config_of(rope_parameters={"rope_theta": 1e4} | rope), tokenizer, seed=7)
    model.eval()
    assert steady_positions(model) == positions
    ids_1L = torch.arange(12)[None]

    def hidden(longest):
        rows = torch.cat([F.pad(ids_1L, (0, longest - 12)), torch.ones(1, longest).long()])
        with torch.no_grad():
            return model.base_model(input_ids=rows, use_cache=False).last_hidden_state[0, :12]

    limit = positions or 64
    torch.testing.assert_close(hidden(12), hidden(limit))
    assert torch.allclose(hidden(12), hidden(limit + 8)) == (positions is None)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gemma2", {"final_logit_softcapping": 30.0, "head_dim": 8}),
        ("granite", {"logits_scaling": 2.0}),
        ("cohere", {"logit_scale": 0.5}),
    ],
)
def test_heads_that_are_not_apart_are_told_on_fresh_weights(tokenizer, kind, fields):
    """Fresh logits are so small that a soft cap changes them by less than a millionth."""
    model = initial_model(config_of(model_type=kind, **fields), tokenizer, seed=7)
    loss = LabelLoss(model)
    assert not loss.head_apart
    ids_BL, mask_BL = random_batch()
    logits_BLV = model(input_ids=ids_BL).logits
    expected = F.cross_entropy(logits_BLV[:, :-1].transpose(1, 2), ids_BL[:, 1:], reduction="none")
    torch.testing.assert_close(loss(ids_BL, mask_BL), expected[mask_BL[:, 1:]])
    without = initial_model(
        config_of(model_type="gemma2", final_logit_softcapping=None, head_dim=8), tokenizer, seed=7
    )
    assert LabelLoss(without).head_apart
