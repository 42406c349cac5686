"""Weights in Hugging Face format."""

import pytest
import torch
from safetensors.torch import load_file
from support.models import config_of, tiny_tokenizer

from s2l_ray.models.loading import initial_model, load_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training import engines


@pytest.mark.parametrize("tied", [False, True])
def test_weights_that_share_a_buffer_are_saved_each(store, tmp_path, tied):
    """ZeRO 1 and 2 keep all weights of a model in one. (That they are copied from a GPU first is
    not shown here.)"""
    loss = LabelLoss(
        initial_model(config_of(tie_word_embeddings=tied), tiny_tokenizer(store), seed=7)
    )
    wanted = {name: weights.clone() for name, weights in loss.model.state_dict().items()}
    parameters = list(loss.parameters())
    flat = torch.cat([weights.detach().flatten() for weights in parameters])
    for weights, share in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        weights.data = share.view_as(weights)
    engines._save_weights(loss, loss.state_dict(), str(tmp_path))
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    found = load_model(tmp_path).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
