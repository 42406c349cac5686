"""Batches of greedy generation against transformers' generate() of each prompt alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from s2l_ray.evaluation import generation
from s2l_ray.evaluation.generation import Generator, _batches, generate, room_of

END, VOCABULARY, POSITIONS = 3, 40, 40
SIZES = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": END, "pad_token_id": None}
MODELS = {
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2, "max_position_embeddings": POSITIONS},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                 "num_attention_heads": 2, "max_position_embeddings": POSITIONS},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS},
}  # fmt: skip


def model_of(kind):
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, **SIZES, **MODELS[kind], initializer_range=0.3)
    return AutoModelForCausalLM.from_config(config).eval()


def alone(model, ids, ends, most):
    """New tokens of one prompt, without padding, up to an end token."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=most, eos_token_id=ends, pad_token_id=ends[0]
    )
    new = model.generate(torch.tensor([ids]), generation_config=config)[0, len(ids) :].tolist()
    return new[:-1] if new[-1] in ends else new


@pytest.mark.parametrize("kind", MODELS)
def test_the_tokens_are_those_of_each_prompt_alone(kind):
    model, random = model_of(kind), np.random.default_rng(0)
    lengths = [1, 2, 3, 8, 21, 30, 31, 31, 39, 40, 45]
    prompts = [random.integers(4, VOCABULARY, length).tolist() for length in lengths]
    ends, most = [END, 11, 17], 10
    wanted = [
        alone(model, ids, ends, min(most, POSITIONS - len(ids))) if len(ids) < POSITIONS else []
        for ids in prompts
    ]
    # What a model's folder asks for is not done: greedy means greedy.
    model.generation_config = GenerationConfig(do_sample=True, repetition_penalty=5.0, min_length=9)
    found = generate(model, prompts, ends=ends, max_new_tokens=most, tokens_at_once=90)
    assert found == wanted
    assert room_of(model, prompts, most) == [10] * 5 + [10, 9, 9, 1, 0, -5]
    counts = [len(ids) for ids in wanted]
    assert counts[-2:] == [0, 0] and max(counts) == most  # no room left; cut
    assert any(0 < count < most for count in counts[:7])  # ended by itself
    assert not any(token in ends for ids in wanted for token in ids)


def test_prompts_that_leave_too_few_positions_are_counted(monkeypatch):
    model, kept = model_of("llama"), SimpleNamespace(tokens_per_batch=None)
    monkeypatch.setattr(generation, "prompts_of", lambda prompts, *_: prompts)
    held = SimpleNamespace(load=lambda _: SimpleNamespace(model=model))
    decoder = SimpleNamespace(batch_decode=lambda new, **_: [len(ids) for ids in new])
    actor = SimpleNamespace(
        held=held, config=kept, prompt=None, tokenizer=decoder, ends=[END], max_new_tokens=10
    )
    texts, stats = Generator.texts(actor, {"model": "m"}, [[5] * n for n in (3, 30, 31, 40, 45)])
    assert stats == {"cut": 3, "without_room": 2} and texts[-2:] == [0, 0]
    assert Generator.texts(actor, {"model": "m"}, [[5] * 30])[1] == {}


def test_batches_hold_rows_of_one_room_and_all_rows_with_any():
    lengths, room = [5, 9, 7, 30, 38, 38, 40], [10, 10, 10, 10, 2, 2, 0]
    assert _batches(lengths, room, 40) == [[3], [1, 2], [0], [4], [5]]
    assert _batches(lengths, room, 80) == [[3, 1], [2, 0], [4, 5]]
    assert _batches([], [], 80) == []
