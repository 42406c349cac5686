"""One optimizer step without Ray, against plain torch."""

import os
import subprocess
import sys
from itertools import pairwise

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
from itertools import pairwise
sys.modules["ray"] = sys.modules["boto3"] = sys.modules["botocore"] = None
import s2l_ray.training.step, s2l_ray.models.signals
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


def test_a_packed_step_is_the_padded_one():
    found, examples = [], labelled(16)
    for tokens_per_row in (None, 2 * 40):
        model = fresh()
        engine = make_engine(LabelLoss(model, packing=True), config_of(), CPU, 1)
        batch = share_of(examples, micro_batch_size=2, tokens_per_row=tokens_per_row)
        found.append((train_step(engine, batch, 1e-3, device=CPU), batch, model.state_dict()))
    (padded, cut, expected), (packed, rows, weights) = found
    assert len(rows.micro_batches) < len(cut.micro_batches) == 8
    assert packed.tokens == packed.padded_tokens < padded.padded_tokens
    assert packed.loss == pytest.approx(padded.loss, abs=1e-6)
    assert packed.norm == pytest.approx(padded.norm, rel=1e-5)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [24, 25])  # 25: elastic workers have unequal shares
def test_workers_make_the_same_number_of_rows(count):
    examples = labelled(count)
    shares = [
        share_of(examples, micro_batch_size=2, rank=rank, world=4, tokens_per_row=45)
        for rank in range(4)
    ]
    numbers = [len(share.micro_batches) for share in shares]
    assert len({*numbers[count % 4 :]}) == 1
    packed = []
    for share in shares:
        for ids, mask, positions, num_labels, _ in share.micro_batches:
            assert num_labels == mask.sum()
            assert ids.shape == mask.shape == positions.shape and 0 < ids.shape[1] <= 45
            starts = [*torch.flatten(positions[0] == 0).nonzero()[:, 0].tolist(), ids.shape[1]]
            for first, end in pairwise(starts):
                packed.append((*ids[0, first:end].tolist(), *mask[0, first:end].tolist()))
    assert sorted(packed) == sorted((*ids.tolist(), *mask.tolist()) for ids, mask in examples)


WORKER = """
import sys, torch, torch.distributed as dist
from support.training import config_of
from training.test_step import fresh, labelled
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines import make_engine
from s2l_ray.training.step import share_of, train_step
rank, stage, place = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{place}/group", rank=rank, world_size=2)
device, config = torch.device("cpu"), config_of(zero_stage=stage)
for tokens_per_row in (None, 160):
    engine = make_engine(LabelLoss(fresh(), packing=True), config, device, 2)
    for step in range(3):
        batch = share_of(labelled(8 * (step + 1))[-8:], micro_batch_size=2, rank=rank, world=2,
                         tokens_per_row=tokens_per_row)
        result = train_step(engine, batch, 1e-3, device=device)
        if rank == 0:
            print("found", len(batch.micro_batches), result.loss, result.norm)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_packing_on_two_workers(tmp_path, stage):
    """The same losses in fewer passes than DeepSpeed's gradient_accumulation_steps."""
    environment = os.environ | {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(stage), str(tmp_path)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    (out, err), *_ = [worker.communicate(timeout=300) for worker in workers]
    found = [list(map(float, line.split()[1:])) for line in out.splitlines() if "found" in line]
    assert len(found) == 6, err[-3000:]
    padded, packed = found[:3], found[3:]
    assert [row[0] for row in padded] == [2, 2, 2] and [row[0] for row in packed] == [1, 1, 1]
    for one, other in zip(padded, packed, strict=True):
        assert one[1:] == pytest.approx(other[1:], rel=1e-4)
