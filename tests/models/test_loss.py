"""Losses at label tokens, against Hugging Face's logits and torch's cross-entropy."""

import pytest
import torch
from support.models import config_of, random_batch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from s2l_ray.models import loss as loss_module
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss, places_before


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("at_once", [1, 7 * 320, loss_module.LOGITS_AT_ONCE])
def test_losses_and_gradients_do_not_depend_on_chunks(tokenizer, monkeypatch, at_once, tied):
    model = initial_model(config_of(tie_word_embeddings=tied), tokenizer, seed=7)
    ids_BL, mask_BL = random_batch()
    logits_BLV = model(input_ids=ids_BL).logits
    every_BL = F.cross_entropy(logits_BLV[:, :-1].transpose(1, 2), ids_BL[:, 1:], reduction="none")
    expected = every_BL[mask_BL[:, 1:]]
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
    loss = LabelLoss(model)
    assert loss.head_apart
    calls = []
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: calls.append(1))
    losses = loss(ids_BL, mask_BL)
    rows = {1: 1, 7 * 320: 7}.get(at_once, 1 << 20)
    assert len(calls) == -(-len(expected) // rows)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    losses.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


def test_the_backward_pass_can_compute_the_logits_again(tokenizer, monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 7 * 320)
    batch, found, kept = random_batch(), [], []
    for recompute in (False, True):
        model = initial_model(config_of(), tokenizer, seed=7)
        loss, held = LabelLoss(model, recompute=recompute).train(), []
        model.get_output_embeddings().register_forward_hook(lambda *_, held=held: held.append(1))
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, held=held: held.append(tensor.shape) or tensor, lambda tensor: tensor
        ):
            losses = loss(*batch)
        kept.append(sum(shape[-1:] == (320,) for shape in held if shape != 1))
        calls = held.count(1)
        losses.sum().backward()
        assert held.count(1) == calls * (2 if recompute else 1)
        found.append([losses.detach(), *(weights.grad for weights in model.parameters())])
    assert kept[0] >= 5 > kept[1] == 0  # logits, or what the loss keeps of them
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_zero_3_has_one_call_of_the_head_on_every_worker(tokenizer, monkeypatch):
    """Workers with more and with fewer label tokens would otherwise wait for one another."""
    model = initial_model(config_of(), tokenizer, seed=7)
    loss, batch = LabelLoss(model), random_batch()
    expected = loss(*batch)
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 1)
    calls = []
    loss.head.register_forward_pre_hook(lambda *_: calls.append(1))
    loss(*batch)
    assert len(calls) == len(expected)
    calls.clear()
    loss.head.weight.ds_id = 0  # what DeepSpeed marks partitioned weights with
    assert torch.equal(loss(*batch), expected)
    assert len(calls) == 1


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
