"""Losses at label tokens, against Hugging Face's logits and torch's cross-entropy."""

import pytest
import torch
from support.models import config_of, random_batch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from s2l_ray.models import chunked
from s2l_ray.models import loss as loss_module
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss, places_before


def naive_losses(model, ids_BL, mask_BL):
    logits_BLV = model(input_ids=ids_BL).logits.float()
    every_BL = F.cross_entropy(logits_BLV[:, :-1].transpose(1, 2), ids_BL[:, 1:], reduction="none")
    return every_BL[mask_BL[:, 1:]]


def gradients_of(model):
    return {name: weights.grad for name, weights in model.named_parameters()}


@pytest.mark.parametrize("kind, tied", [("llama", False), ("llama", True), ("phi", False)])
@pytest.mark.parametrize("at_once", [1, 7 * 320, loss_module.LOGITS_AT_ONCE])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_gradients_do_not_depend_on_chunks(
    tokenizer, monkeypatch, at_once, kind, tied, weighted
):
    """Of a sum of the losses, and of one with weights. The head of phi has a bias."""
    model = initial_model(config_of(model_type=kind, tie_word_embeddings=tied), tokenizer, seed=7)
    batch = random_batch()
    expected = naive_losses(model, *batch)
    weights_M = torch.linspace(0.5, 2, len(expected)) if weighted else 0.25
    (expected * weights_M).sum().backward()
    gradients = {name: grad.clone() for name, grad in gradients_of(model).items()}
    model.zero_grad()
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
    passes, calls = [], []
    run = chunked._pass
    monkeypatch.setattr(chunked, "_pass", lambda *all, **how: passes.append(1) or run(*all, **how))
    loss = LabelLoss(model)
    assert loss.head_apart
    loss.head.register_forward_pre_hook(lambda *_: calls.append(1))
    losses = loss(*batch)
    assert len(calls) == 1  # under ZeRO-3 each call gathers the weights, from all workers
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    total = (losses * weights_M).sum() if weighted else losses.sum() * weights_M
    total.backward()
    for name, found in gradients_of(model).items():
        torch.testing.assert_close(found, gradients[name], rtol=1e-4, atol=1e-5)
    in_chunks = len(losses) * 320 > at_once
    assert len(passes) == (0 if not in_chunks else 2 if weighted else 1)


def test_chunks_under_autocast_are_as_near_as_plain_cross_entropy(tokenizer, monkeypatch):
    model, batch = initial_model(config_of(), tokenizer, seed=7), random_batch()
    naive_losses(model, *batch).sum().backward()
    exact, errors = {name: grad.clone() for name, grad in gradients_of(model).items()}, []
    for at_once in (loss_module.LOGITS_AT_ONCE, 7 * 320):
        model.zero_grad()
        monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
        with torch.autocast("cpu", torch.bfloat16):
            LabelLoss(model)(*batch).sum().backward()
        head = model.get_output_embeddings().weight.grad
        assert head.dtype == torch.float32
        errors.append((head - exact["lm_head.weight"]).norm() / exact["lm_head.weight"].norm())
    assert 0 < errors[1] < 1.5 * errors[0] < 0.02


def test_a_frozen_head_gets_no_gradient_and_no_second_backward_pass_is_wrong(
    tokenizer, monkeypatch
):
    model, batch = initial_model(config_of(), tokenizer, seed=7), random_batch()
    head = model.get_output_embeddings().weight.requires_grad_(False)
    naive_losses(model, *batch).sum().backward()
    expected = {name: 3 * grad for name, grad in gradients_of(model).items() if grad is not None}
    model.zero_grad()
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 7 * 320)
    total = LabelLoss(model)(*batch).sum()
    total.backward(retain_graph=True)
    (2 * total).backward()
    assert head.grad is None
    for name, grad in expected.items():
        torch.testing.assert_close(gradients_of(model)[name], grad, rtol=1e-5, atol=1e-6)


def test_no_more_than_a_chunk_of_logits_is_kept(tokenizer, monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 7 * 320)
    loss, batch, kept = LabelLoss(initial_model(config_of(), tokenizer, seed=7)), random_batch(), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        loss(*batch)
    assert kept and not any(shape[-1:] == (320,) for shape in kept)


@pytest.mark.parametrize("kind", ["llama", "phi"])  # phi's head has a bias
@pytest.mark.parametrize("block", [1, 100, 2048])
def test_scoring_s_losses_do_not_depend_on_blocks_of_the_vocabulary(
    tokenizer, monkeypatch, block, kind
):
    model = initial_model(config_of(model_type=kind), tokenizer, seed=7).eval()
    head = model.get_output_embeddings()
    assert (head.bias is not None) == (kind == "phi")
    with torch.no_grad():
        head.weight.mul_(50)  # losses far apart
        if head.bias is not None:
            head.bias.normal_()
    ids_BL, mask_BL = random_batch()
    logits_BLV = model(input_ids=ids_BL).logits
    every_BL = F.cross_entropy(logits_BLV[:, :-1].transpose(1, 2), ids_BL[:, 1:], reduction="none")
    monkeypatch.setattr(loss_module, "VOCABULARY_BLOCK", block)
    loss = LabelLoss(model)
    assert loss.head_apart
    with torch.inference_mode():
        losses = loss(ids_BL, mask_BL)
    expected = every_BL[mask_BL[:, 1:]].detach()
    assert expected.std() > 1
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)


class Waits(TorchDispatchMode):
    """Lists the operations for whose result a GPU is waited for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        boolean = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in ("nonzero", "_local_scalar_dense", "masked_select") or boolean:
            self.found.append(name)
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("kind", ["llama", "granite"])
def test_a_pass_with_a_known_number_of_labels_waits_only_where_transformers_does(tokenizer, kind):
    """It looks for packed examples, once, before the first layer."""
    model = initial_model(config_of(model_type=kind), tokenizer, seed=7)
    (ids_BL, mask_BL), loss = random_batch(), LabelLoss(model)
    expected, num_labels = loss(ids_BL, mask_BL), int(mask_BL[:, 1:].sum())
    with Waits() as known:
        losses = loss(ids_BL, mask_BL, None, num_labels)
        losses.sum().backward()
    assert known.found == ["_local_scalar_dense"]
    assert torch.equal(losses, expected)
    with Waits() as unknown:
        loss(ids_BL, mask_BL)
    assert unknown.found == ["nonzero", "_local_scalar_dense"]


def test_places_before_label_tokens():
    _, mask_BL = random_batch()
    rows = enumerate(mask_BL.tolist())
    expected = [17 * row + n - 1 for row, mask in rows for n, label in enumerate(mask) if label]
    assert places_before(mask_BL).tolist() == expected
    assert places_before(mask_BL, len(expected)).tolist() == expected
