"""One optimizer step without Ray, against plain torch."""

import subprocess
import sys

import pytest
import torch
from support.models import VOCAB, random_tokens
from support.training import config_of

from s2l_ray.models.batch import examples_of
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines import make_engine
from s2l_ray.training.step import share_of, train_step

CPU = torch.device("cpu")


class Tokenizer:
    bos_token_id = eos_token_id = pad_token_id = 0

    def __len__(self):
        return VOCAB


def fresh():
    return initial_model(config_of().model, Tokenizer(), seed=0)


def labelled(count):
    return [each for each in examples_of(random_tokens(2 * count)) if each[1].any()][:count]


def test_what_computes_a_step_needs_neither_ray_nor_boto3():
    code = """
import sys
sys.modules["ray"] = sys.modules["boto3"] = sys.modules["botocore"] = None
import s2l_ray.training.step
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_step_is_that_of_plain_torch():
    config, examples = config_of(), labelled(8)
    model, expected = fresh(), fresh().train()
    engine = make_engine(LabelLoss(model), config, CPU, 1)
    batch = share_of(examples, micro_batch_size=3)
    assert [len(each.input_ids_BL) for each in batch.micro_batches] == [3, 3, 2]
    found = train_step(engine, batch, 1e-3, device=CPU)

    optimizer = torch.optim.AdamW(expected.parameters(), lr=1e-3, weight_decay=0.1)
    labels = sum(int(mask.sum()) for _, mask in examples)
    loss = 0.0
    for ids, mask in examples:
        target = torch.where(torch.from_numpy(mask), torch.from_numpy(ids), -100)
        mean = expected(input_ids=torch.from_numpy(ids)[None], labels=target[None]).loss
        loss = loss + mean * int(mask.sum()) / labels
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
    optimizer.step()
    assert found.loss == pytest.approx(loss.item(), abs=1e-6)
    assert found.norm == pytest.approx(norm.item(), rel=1e-5)
    assert found.tokens == sum(len(ids) for ids, _ in examples) <= found.padded_tokens
    for name, weights in model.state_dict().items():
        torch.testing.assert_close(weights, expected.state_dict()[name], rtol=0, atol=2e-6)
