"""Packed examples: losses and gradients are those of the examples alone."""

from itertools import accumulate

import numpy as np
import pytest
import torch
from support.models import GROUPED, SHAPES, SMALL, VOCAB
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_flash_attention_utils import (
    _is_packed_sequence,
    prepare_fa_kwargs_from_position_ids,
)

from s2l_ray.models.batch import pack, pad, rows_to_pack
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.properties import check_packing

CPU = torch.device("cpu")
KINDS = SHAPES | {
    "qwen2": GROUPED,
    "mistral": GROUPED | {"sliding_window": 6},  # shorter than examples
    "gpt2": SMALL,  # learns its positions
    "mixtral": GROUPED | {"num_local_experts": 4},
}


def model_of(kind, attention, **fields):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **KINDS[kind] | {"initializer_range": 0.2} | fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.float().eval()  # without dropout


def examples_of(*lengths):
    random = np.random.default_rng(4)
    examples = []
    for length in lengths:
        mask = random.random(length) < 0.6
        mask[0], mask[-1] = False, True
        examples.append((random.integers(0, VOCAB, length), mask))
    return examples


def losses_and_gradients(loss, batches):
    loss.zero_grad()
    losses = torch.cat([loss(*batch) for batch in batches])
    losses.sum().backward()
    return losses.detach(), {
        name: weights.grad.clone() for name, weights in loss.named_parameters()
    }


@pytest.mark.parametrize(
    ("kind", "attention"),
    # Gemma 2 has no other attention than eager, because of its soft cap.
    [
        ("gemma2", "eager"),
        ("llama", "eager"),
        *((k, "sdpa") for k in sorted({*KINDS} - {"gemma2"})),
    ],
)
def test_losses_and_gradients_are_those_of_examples_alone(kind, attention):
    loss = LabelLoss(model_of(kind, attention), packing=True)
    assert loss.head_apart == (kind not in ("gemma2", "granite"))
    examples = examples_of(9, 1, 20, 2, 13)
    packed, packed_gradients = losses_and_gradients(loss, [pack(examples)])
    alone, alone_gradients = losses_and_gradients(loss, [pad([each], CPU) for each in examples])
    assert alone.std() > 0.2
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    for name, gradient in packed_gradients.items():
        torch.testing.assert_close(gradient, alone_gradients[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_no_token_reaches_another_example(attention):
    loss = LabelLoss(model_of("llama", attention))
    examples = examples_of(9, 12, 7)
    counts = [mask.sum() for _, mask in examples]
    before = loss(*pack(examples)).detach().split(list(map(int, counts)))
    examples[1] = (VOCAB - 1 - examples[1][0], examples[1][1])
    after = loss(*pack(examples)).detach().split(list(map(int, counts)))
    assert torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])
    assert not torch.isclose(before[1], after[1]).any()


def test_a_first_token_is_never_a_label_of_the_example_before():
    (ids, mask), other = examples_of(5, 6)
    mask[0] = True
    _, packed_mask, positions = pack([other, (ids, mask)])
    assert packed_mask[0].tolist() == [*other[1].tolist(), False, *mask[1:].tolist()]
    assert positions[0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]
    assert mask[0]  # the caller's is as it was


def test_flash_attention_finds_the_examples():
    """By transformers' own functions; flash attention itself needs a GPU."""
    for lengths in ((9, 1, 20, 2), (1, 1), (7, 7)):
        _, _, positions = pack(examples_of(*lengths))
        assert _is_packed_sequence(positions, 1)
        (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(positions)
        assert starts.tolist() == [0, *accumulate(lengths)]
        assert longest == max(lengths)
    assert not _is_packed_sequence(pack(examples_of(9))[2], 1)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCAB}),
        ("opt", SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32}),  # positions, but not its mask
        ("bloom", SMALL),  # takes no position_ids
    ],
)
def test_a_model_that_cannot_is_refused(kind, shape):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).float().train()
    with pytest.raises(ValueError, match=f"packing: this {kind} does not keep packed examples"):
        check_packing(model)
    assert model.training


def test_8192_tokens_in_a_row():
    shape = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    loss = LabelLoss(model_of("llama", "sdpa", **shape, max_position_embeddings=8192))
    examples = examples_of(5000, 3000, 192)
    row = pack(examples)
    assert row[0].shape == (1, 8192)
    with torch.no_grad():
        alone = torch.cat([loss(*pad([each], CPU)) for each in examples])
    torch.testing.assert_close(loss(*row).detach(), alone, rtol=1e-5, atol=1e-4)


def test_rows_are_as_few_as_possible():
    def rows(lengths, tokens):
        return [list(range(len(lengths)))[row] for row in rows_to_pack(np.array(lengths), tokens)]

    assert rows([2, 2, 3, 4, 9, 1], 7) == [[0, 1, 2], [3], [4], [5]]
    assert rows([2, 2, 3, 4], 100) == [[0, 1, 2, 3]]
    assert rows([5, 5], 5) == [[0], [1]]
