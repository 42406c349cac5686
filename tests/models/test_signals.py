"""Signals against a naive full softmax and autograd, one example at a time; the loss unchanged.

N examples, V vocabulary, M label tokens.
"""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.models import random_tokens, small_model
from torch import nn

from s2l_ray.models import loss as models
from s2l_ray.models.loss import LabelLoss, over_vocabulary
from s2l_ray.models.signals import _distances, _ranks
from s2l_ray.scoring.scorer import score_table
from s2l_ray.store.schemas import LOSSES

SIGNALS = ("confidence", "el2n", "features", "grad_norm", "rank")
APART = {"gpt_neox": True, "llama": True, "phi": True, "gemma2": False, "granite": False}


def sharp_model(kind):
    """A model that is sure of some tokens and not of others."""
    model = small_model(kind)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(6)
    return model


def naive_signals(tokens, model):
    """Columns of the signals: one example at a time, no padding, all logits at once."""
    model = copy.deepcopy(model)
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())  # untied
    found = {name: [] for name in SIGNALS}
    for row in tokens.to_pylist():
        if not any(row["loss_mask"]):
            continue
        ids, mask = torch.tensor([row["input_ids"]]), torch.tensor(row["loss_mask"])
        output = model(input_ids=ids, output_hidden_states=True)
        labels = torch.where(mask, ids[0], -100)[None]
        model.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        p_MV = output.logits[0, :-1][mask[1:]].detach().double().softmax(1)
        onehot_MV = nn.functional.one_hot(ids[0, 1:][mask[1:]], p_MV.shape[1])
        found["confidence"].append(p_MV.max(1).values.mean().item())
        found["el2n"].append((p_MV - onehot_MV).norm(dim=1).mean().item())
        own_M1 = output.logits[0, :-1][mask[1:]].gather(1, ids[0, 1:][mask[1:]][:, None])
        ranks_M = (output.logits[0, :-1][mask[1:]] > own_M1).sum(1) + 1
        found["rank"].append(ranks_M.clamp(max=100).double().mean().item())
        found["features"].append(output.hidden_states[-1][0, :-1][mask[1:]].mean(0).tolist())
        found["grad_norm"].append(head.weight.grad.double().norm().item())
    return found


@pytest.mark.parametrize("kind", APART)
def test_signals_are_those_of_a_naive_loop_for_any_batches(monkeypatch, kind):
    monkeypatch.setattr(models, "VOCABULARY_BLOCK", 77)  # 300 tokens: a last block of another size
    tokens, model = random_tokens(25), sharp_model(kind)
    expected = naive_signals(tokens, model)
    for name in ("confidence", "el2n", "grad_norm", "rank"):
        assert np.ptp(expected[name]) > 0.005 * np.mean(expected[name])
    loss = LabelLoss(model)
    assert loss.head_apart == APART[kind]
    for tokens_per_batch in (1, 100, 1 << 20):
        table = score_table(tokens, loss, tokens_per_batch=tokens_per_batch, signals=SIGNALS[::-1])
        assert table.num_rows == 20
        assert table.schema == pa.schema(
            [*LOSSES, ("confidence", pa.float32()), ("el2n", pa.float32()),
             ("features", pa.list_(pa.float32(), 32)), ("grad_norm", pa.float32()),
             ("rank", pa.float32())]
        )  # fmt: skip
        for name in SIGNALS:
            found = np.array(table[name].to_pylist())
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", APART)
def test_the_loss_and_a_signal_have_the_same_bits_with_any_others(kind):
    tokens, loss = random_tokens(25), LabelLoss(sharp_model(kind))
    whole = score_table(tokens, loss, tokens_per_batch=100, signals=SIGNALS)
    assert whole.select(LOSSES.names).equals(score_table(tokens, loss, tokens_per_batch=100))
    for name in SIGNALS:
        alone = score_table(tokens, loss, tokens_per_batch=100, signals=[name])
        assert alone.schema.names == [*LOSSES.names, name]
        assert alone.equals(whole.select([*LOSSES.names, name]))


def test_el2n_of_sure_tokens_does_not_cancel():
    torch.manual_seed(0)
    logits_MV = torch.randn(400, 300) * torch.linspace(1, 20, 400)[:, None]
    targets_M = logits_MV.argmax(1)
    p_MV = logits_MV.double().softmax(1)
    expected_M = (p_MV - nn.functional.one_hot(targets_M, 300)).norm(dim=1)
    assert (expected_M < 1e-5).any() and (expected_M > 0.5).any()
    for size in (1, 64, 300):
        found_M = _distances(over_vocabulary(logits_MV.split(size, 1), targets_M, extremes=True))
        torch.testing.assert_close(found_M.double(), expected_M, rtol=1e-4, atol=1e-5)


def test_ranks_by_hand():
    logits_MV = torch.tensor([[0.0, 3.0, 1.0, 3.0], [0.0, 3.0, 1.0, 2.0], [5.0, 1.0, 1.0, 0.0]])
    targets_M = torch.tensor([2, 1, 2])  # behind both 3s; the first; beside an equal one
    for size in (1, 3, 4):
        seen = over_vocabulary(logits_MV.split(size, 1), targets_M)
        assert _ranks(logits_MV.split(size, 1), seen).tolist() == [3, 1, 2]
    falling_MV = -torch.arange(300.0)[None].expand(3, -1)
    seen = over_vocabulary([falling_MV], torch.tensor([98, 99, 250]))
    assert _ranks([falling_MV], seen).tolist() == [99, 100, 100]


def test_no_example_with_labels_gives_an_empty_table_of_the_same_schema():
    loss = LabelLoss(small_model("llama"))
    empty = score_table(random_tokens(5)[4:], loss, signals=SIGNALS)
    assert empty.num_rows == 0
    assert empty.schema == score_table(random_tokens(4), loss, signals=SIGNALS).schema


@pytest.mark.parametrize("name", ["features", "grad_norm"])
def test_a_model_that_does_not_expose_its_head_is_refused(name):
    tokens, model = random_tokens(4), small_model("llama")
    whole = score_table(tokens, LabelLoss(model), signals=["confidence"])
    model.get_output_embeddings = lambda: None
    loss = LabelLoss(model)
    with pytest.raises(ValueError, match=f"signals {name}: LlamaForCausalLM does not expose the"):
        score_table(tokens, loss, signals=[name])
    alike = score_table(tokens, loss, signals=["confidence"])
    np.testing.assert_allclose(alike["confidence"], whole["confidence"], rtol=1e-5)


def test_a_signal_that_is_not_finite_is_reported():
    tokens, model = random_tokens(12, first_id=7000), small_model("llama")
    with torch.no_grad():  # states whose products overflow fp32
        model.base_model.norm.weight.mul_(1e25)
        model.get_output_embeddings().weight.mul_(1e-25)
    with pytest.raises(
        ValueError, match=r"example_id 7000: the grad_norm is (inf|nan); expected a finite number"
    ):
        score_table(tokens, LabelLoss(model), signals=SIGNALS)
