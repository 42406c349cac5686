"""Training weights: a step is that of sum_i w_i sum_t loss / sum_i w_i m_i over the whole batch.

B examples, M label tokens.
"""

import os
import subprocess
import sys
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.models import random_tokens
from support.training import config_of
from training.test_step import CPU, fresh, labelled

from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.batches import BatchStream, GlobalBatch
from s2l_ray.training.engines import make_engine
from s2l_ray.training.step import share_of, train_step
from s2l_ray.training.windows import Window


def weighted(count):
    """A global batch of examples with weights from 0.1 to 20."""
    weights = np.random.default_rng(1).lognormal(0, 1.5, count).clip(0.1, 20).astype(np.float32)
    window = Window.of(labelled(count))._replace(weights=weights)
    return GlobalBatch([(window, np.arange(count))])


@cache
def expected(count):
    """Loss and gradient of the batch, one example after another, without any of our own code."""
    model, batch = fresh().train(), weighted(count)
    total, labels = 0.0, 0.0
    for (ids, mask), weight in zip(batch, batch.weights_B.tolist(), strict=True):
        target = torch.where(torch.from_numpy(mask), torch.from_numpy(ids), -100)
        mean = model(input_ids=torch.from_numpy(ids)[None], labels=target[None]).loss
        total = total + weight * mean * int(mask[1:].sum())
        labels += weight * int(mask[1:].sum())
    (total / labels).backward()
    gradients = {name: each.grad for name, each in model.named_parameters()}
    return (total / labels).item(), gradients


@pytest.mark.parametrize(
    ("size", "tokens_per_row"), [(16, None), (3, None), (2, 80)], ids=["whole", "cut", "packed"]
)
def test_a_weighted_step_is_that_of_plain_torch(size, tokens_per_row):
    model, found = fresh(), {}
    engine = make_engine(LabelLoss(model, packing=True), config_of(max_grad_norm=1e9), CPU, 1)
    engine.optimizer.register_step_pre_hook(
        lambda *_: found.update({n: p.grad.clone() for n, p in model.named_parameters()})
    )
    batch = share_of(weighted(16), micro_batch_size=size, tokens_per_row=tokens_per_row)
    assert (len(batch.micro_batches) == 1) == (size == 16)
    result = train_step(engine, batch, 1e-3, device=CPU)
    loss, gradients = expected(16)
    assert result.loss == pytest.approx(loss, abs=2e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=2e-6, msg=name)


def test_weights_of_one_change_no_bit():
    examples = labelled(8)
    ones = Window.of(examples)._replace(weights=np.ones(8, np.float32))
    found = []
    for batch in (GlobalBatch.of(examples), GlobalBatch([(ones, np.arange(8))])):
        model = fresh()
        engine = make_engine(LabelLoss(model), config_of(), CPU, 1)
        result = train_step(engine, share_of(batch, micro_batch_size=3), 1e-3, device=CPU)
        found.append((result, model.state_dict()))
    (plain, weights), (weighted_by_one, others) = found
    assert plain == weighted_by_one
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_weights_stay_with_their_examples_from_the_parts_to_the_batch():
    parts = [random_tokens(30, seed=seed) for seed in range(2)]
    weight_of = {}
    for number, part in enumerate(parts):
        weights = np.arange(part.num_rows, dtype=np.float32) + 100 * number + 1
        for ids, weight in zip(part["input_ids"].to_pylist(), weights.tolist(), strict=True):
            weight_of[tuple(ids)] = weight
        parts[number] = part.append_column("weight", pa.array(weights))
    rows = [int((part["num_label_tokens"].to_numpy() > 0).sum()) for part in parts]
    stream = BatchStream(parts.__getitem__, rows, seed=3, batch_size=8, window_rows=20).batches()
    for _ in range(9):
        batch = next(stream)
        assert batch.weights_B.tolist() == [weight_of[tuple(ids.tolist())] for ids, _ in batch]


WORKER = """
import sys, torch, torch.distributed as dist
from support.training import config_of
from training.test_step import fresh
from training.test_weights import weighted
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines import make_engine
from s2l_ray.training.step import share_of, train_step
rank, stage, place = int(sys.argv[1]), eval(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{place}/group", rank=rank, world_size=2)
device = torch.device("cpu")
config = config_of(zero_stage=stage, max_grad_norm=1e9, global_batch_size=16)
for tokens_per_row in (None, 80):
    engine = make_engine(LabelLoss(fresh(), packing=True), config, device, 2)
    batch = share_of(weighted(16), micro_batch_size=2, rank=rank, world=2,
                     tokens_per_row=tokens_per_row)
    result = train_step(engine, batch, 1e-3, device=device)
    if rank == 0:
        print("found", len(batch.micro_batches), result.loss, result.norm)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 2, 3])
def test_a_weighted_step_on_two_workers_with_accumulation(tmp_path, stage):
    environment = os.environ | {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(stage), str(tmp_path)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    (out, err), *_ = [worker.communicate(timeout=300) for worker in workers]
    found = [list(map(float, line.split()[1:])) for line in out.splitlines() if "found" in line]
    assert len(found) == 2, err[-3000:]
    loss, gradients = expected(16)
    norm = torch.cat([each.flatten() for each in gradients.values()]).norm().item()
    for number, *told in found:
        assert number > 1  # each worker accumulates
        assert told == pytest.approx([loss, norm], rel=1e-4)
