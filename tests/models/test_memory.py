"""Estimates of memory against real tensors, against counts by hand, and what is refused.

benchmarks/memory.py compares them with the peaks of real workers.
"""

import re

import pytest
import torch
from support.models import SHAPES
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import TrainingConfig
from s2l_ray.models import tracing
from s2l_ray.models.fitting import judge_scoring, judge_training
from s2l_ray.models.memory import config_of, scoring_memory, training_memory
from s2l_ray.models.room import Room, nominal
from s2l_ray.models.tracing import trace

# 2 layers: 4 x 64 x 64 + 3 x 64 x 128 + 2 x 64 each; embedding and head of 1000 x 64; a last norm.
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "intermediate_size": 128, "vocab_size": 1000,
    "max_position_embeddings": 128,
}  # fmt: skip
WEIGHTS = 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 2 * 1000 * 64 + 64


def settings(**changes):
    dtype = changes.pop("dtype", "float32")
    workers = {"num_workers": changes.pop("num_workers", 1), "gpus_per_worker": 1}
    model = {"architecture": LLAMA, "tokenizer_vocab": 1000, "dtype": dtype}
    data = {"model": model, "workers": workers, "global_batch_size": 64, "micro_batch_size": 8}
    return TrainingConfig.model_validate(data | changes)


def estimate(length=32, **changes):
    config = settings(**changes)
    return training_memory(config, config_of(config.model), length)


# -- the trace


@pytest.mark.parametrize("kind", SHAPES)
def test_a_trace_holds_at_least_what_a_real_forward_pass_keeps(kind):
    config = AutoConfig.for_model(kind, **SHAPES[kind])
    model = AutoModelForCausalLM.from_config(config)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids = torch.zeros(3, 48, dtype=torch.int64)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    found = trace(config, 3, 48)
    assert found.weights == sum(parameter.numel() for parameter in model.parameters())
    assert sum(kept.values()) <= found.passes <= 1.6 * sum(kept.values())
    assert loss.requires_grad


def test_a_long_model_is_extrapolated_from_short_ones(monkeypatch):
    config = AutoConfig.for_model(**LLAMA | {"num_hidden_layers": 16})
    shortened = {each: trace(config, 4, 64, recompute=each) for each in (False, True)}
    monkeypatch.setattr(tracing, "LAYERS", (1, 99))
    for recompute, found in shortened.items():
        whole = trace(config, 4, 64, recompute=recompute)
        assert found[:4] == whole[:4]
        assert found.passes == pytest.approx(whole.passes, rel=0.02)


def test_checkpointing_and_short_batches_take_less():
    config = AutoConfig.for_model(**LLAMA | {"num_hidden_layers": 4, "vocab_size": 64})
    plain = trace(config, 8, 64).passes
    assert trace(config, 8, 64, recompute=True).passes < 0.6 * plain
    assert trace(config, 4, 64).passes == pytest.approx(plain / 2, rel=0.1)
    assert trace(config, 8, 64, training=False).passes < 0.3 * plain


# -- weights, gradients, optimizer: 4 + 4 + 8 bytes per weight


@pytest.mark.parametrize("changes, weights, gradients, optimizer", [
    ({}, 4, 4, 8),
    ({"dtype": "bfloat16"}, 4, 4, 8),  # fp32 masters; autocast's copies are in the trace
    ({"num_workers": 4, "zero_stage": 0}, 4, 4, 8),
    # bf16 weights; fp32 masters and moments are shared, and from stage 2 on gradients too
    ({"num_workers": 4, "zero_stage": 1, "dtype": "bfloat16", "micro_batch_size": 16}, 2, 2, 3),
    ({"num_workers": 4, "zero_stage": 2, "dtype": "bfloat16"}, 2, 1, 3),
    ({"num_workers": 4, "zero_stage": 3, "dtype": "bfloat16"}, 0.5, 1, 3),
    ({"num_workers": 4, "zero_stage": 3}, 1, 1, 2),  # fp32 weights are the masters
])  # fmt: skip
def test_bytes_per_weight(changes, weights, gradients, optimizer):
    gpu = estimate(**changes).gpu
    assert gpu["weights"] == weights * WEIGHTS
    assert gpu["gradients"] == gradients * WEIGHTS
    assert gpu["optimizer state"] == optimizer * WEIGHTS


def test_offloaded_state_is_in_host_memory():
    memory = estimate(num_workers=4, zero_stage=2, dtype="bfloat16", offload_optimizer=True)
    assert "optimizer state" not in memory.gpu
    assert memory.host["optimizer state (offloaded)"] == 4 * WEIGHTS


# -- what fits


def test_a_training_that_fits_is_not_spoken_of():
    config = settings()
    verdict = judge_training(
        "target", config, config_of(config.model), Room(gpu=80e9), length=32, usual=32
    )
    assert not verdict.refused and not verdict.doubtful and verdict.gpu > 0


BIG = LLAMA | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
               "num_key_value_heads": 8, "max_position_embeddings": 2048}  # fmt: skip


def judged(room, usual=512, **changes):
    config = settings(model={"architecture": BIG, "tokenizer_vocab": 1000}, **changes)
    model = config_of(config.model)
    return config, judge_training("target", config, model, room, length=512, usual=usual)


def test_what_cannot_fit_is_refused_with_settings_that_fit():
    room = Room(gpu=1.8e9, where="L4, nominal")
    config, verdict = judged(room, micro_batch_size=16)
    said = verdict.refused
    assert said.startswith("target: micro-batches of 16 x 512 tokens need ")
    assert "but it has 1.8 GB (L4, nominal)" in said
    advice = re.findall(r"(micro_batch_size|gradient_checkpointing): (\w+) would need ([\d.]+) GB",
                        said)  # fmt: skip
    assert advice
    for name, value, need in advice:
        changes = {name: value == "true" if name.startswith("grad") else int(value)}
        changed = TrainingConfig.model_validate(config.model_dump() | changes)
        found = training_memory(changed, config_of(config.model), 512).on_gpu
        assert found <= room.gpu and found == pytest.approx(float(need) * 1e9, abs=6e7)


def test_long_examples_alone_are_a_doubt():
    """A refusal goes by the usual length: a corpus may have few long examples, or none."""
    _, verdict = judged(Room(gpu=2.2e9), usual=16, micro_batch_size=16)
    assert verdict.doubtful and not verdict.refused


def test_what_no_setting_makes_fit_says_what_comes_nearest():
    _, verdict = judged(Room(gpu=1.5e9), num_workers=1)
    assert "no setting makes it fit: " in verdict.refused
    assert "take larger GPUs or nodes, or more workers" in verdict.refused


def test_host_memory_counts_all_workers_of_a_node():
    _, verdict = judged(Room(gpu=80e9, host=3e9, per_node=4, where="node a"), num_workers=4)
    assert "of host memory for 4 on a node" in verdict.refused and "(node a)" in verdict.refused


def test_a_scoring_that_cannot_fit_is_refused():
    model = AutoConfig.for_model(**BIG)
    memory = scoring_memory(model, dtype="float32", tokens=8192, length=512, gpu=True)
    assert not judge_scoring("proxy", memory, Room(gpu=24e9)).refused
    said = judge_scoring("proxy", memory, Room(gpu=1e9, where="x")).refused
    assert "lower trajectories.tokens_per_batch" in said


def test_known_gpus():
    assert nominal("H100") == 80e9 and nominal("L4") == 24e9
    assert nominal(None) is None and nominal("TPU-V4") is None
