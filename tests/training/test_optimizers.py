"""AdamW with moments in 8 bits, by the real bitsandbytes: beside torch's, and resumed."""

import sys

import pytest
import torch
from support.training import config_of
from test_sharded import CPU, Tokenizer, examples

from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines import make_engine
from s2l_ray.training.pieces import SavedPieces, copied, file_of, write
from s2l_ray.training.step import share_of, train_step

# Weights of more than 4,096 elements: smaller ones have 32-bit moments.
WIDE = config_of().model.architecture | {"hidden_size": 128}


def engine_of(optimizer):
    model = {"architecture": WIDE, "tokenizer_vocab": 300}
    config = config_of(model=model, workers={"num_workers": 1}, optimizer=optimizer)
    return make_engine(LabelLoss(initial_model(config.model, Tokenizer(), seed=5)), config, CPU, 1)


def train(engine, steps):
    for step in steps:
        train_step(engine, share_of(examples(step), micro_batch_size=4), 1e-3, device=CPU)
    return {name: weights.detach().clone() for name, weights in engine.loss.named_parameters()}


def test_8_bit_moments_train_like_32_bit_ones_and_resume_to_the_same_bits(tmp_path):
    start = train(engine_of("adamw_8bit"), range(0))
    found, expected = (train(engine_of(name), range(4)) for name in ("adamw_8bit", "adamw"))
    moved = sum((expected[name] - start[name]).norm() ** 2 for name in start).sqrt()
    apart = sum((expected[name] - found[name]).norm() ** 2 for name in start).sqrt()
    assert 0 < apart < 0.1 * moved
    before, after = engine_of("adamw_8bit"), engine_of("adamw_8bit")
    train(before, range(2))
    write(map(copied, before.pieces()), tmp_path / file_of(0))
    moments = {value.dtype for state in before.optimizer.state.values() for value in state.values()
               if torch.is_tensor(value) and value.numel() > 4096}  # fmt: skip
    assert moments == {torch.uint8}
    after.restore(SavedPieces(lambda _: str(tmp_path), [file_of(0)], ""), 2)
    resumed = train(after, range(2, 4))
    assert all(torch.equal(resumed[name], found[name]) for name in found)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match=r'adamw_8bit needs bitsandbytes; run `pip install "s2l-'):
        engine_of("adamw_8bit")
