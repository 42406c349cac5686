"""Batches for scoring: what they hold, that a thread makes them ahead, that no step waits."""

import threading

import pytest
import torch
from support.models import SHAPES, random_tokens, small_model
from torch.utils._python_dispatch import TorchDispatchMode

from s2l_ray.models.ahead import ahead
from s2l_ray.models.batch import examples_of, pad
from s2l_ray.models.feed import AHEAD, label_batch, label_batches
from s2l_ray.models.loss import LabelLoss, block_width
from s2l_ray.models.signals import signals_of


def test_places_point_to_the_tokens_before_labels():
    examples = examples_of(random_tokens(12))
    batch = label_batch(examples)
    ids_BL, _ = pad(examples, torch.device("cpu"))
    wanted = [
        (row, column)
        for row, (_, mask) in enumerate(examples)
        for column in range(len(mask) - 1)
        if mask[column + 1]
    ]
    length = ids_BL.shape[1]
    assert [divmod(place, length) for place in batch.places_M.tolist()] == wanted
    assert batch.targets_M.tolist() == [int(ids_BL[row, column + 1]) for row, column in wanted]
    assert batch.counts == batch.counts_B.tolist() == [int(mask.sum()) for _, mask in examples]
    assert torch.equal(batch.input_ids_BL, ids_BL)


def test_a_label_at_the_first_token_has_nothing_before_it():
    ids, mask = examples_of(random_tokens(1))[0]
    first = mask.copy()
    first[0] = True
    batch = label_batch([(ids, mask), (ids, first)])
    assert batch.counts[0] == batch.counts[1]
    here, there = batch.places_M.split(batch.counts)
    assert torch.equal(here + len(ids), there)


def test_batches_cover_all_rows_and_fit():
    examples = examples_of(random_tokens(40))
    seen = []
    for rows, batch in label_batches(examples, 64, torch.device("cpu")):
        assert batch.input_ids_BL.numel() <= 64 or len(rows) == 1
        assert torch.equal(batch.input_ids_BL, label_batch([examples[r] for r in rows])[0])
        seen += rows.tolist()
    assert sorted(seen) == list(range(40))


def test_a_thread_makes_a_few_ahead_in_order():
    made, first = [], threading.Event()

    def make(number):
        made.append((number, threading.current_thread()))
        if number == AHEAD - 1:
            first.set()
        return -number

    made_ahead = ahead(map(make, range(20)), AHEAD)
    assert made == []  # nothing before it is asked for
    assert next(made_ahead) == 0
    assert first.wait(10)  # those ahead are made although nobody asks for them
    assert [*made_ahead] == [-number for number in range(1, 20)]
    assert [number for number, _ in made] == list(range(20))
    assert threading.current_thread() not in {thread for _, thread in made}
    assert [*ahead(map(make, []), AHEAD)] == []


def test_an_error_comes_in_the_place_of_its_item():
    found = ahead(map(lambda number: 1 // number, [1, 1, 0, 1]), AHEAD)
    assert [next(found), next(found)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


class NoWaiting(TorchDispatchMode):
    """Refuses operations whose result's shape or Python value depends on data: on a GPU each waits
    for all that the device still has to do."""

    WAITING = ("nonzero", "_local_scalar_dense", "is_nonzero", "masked_select", "equal", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        assert name not in self.WAITING, name
        masks = args[1] if name == "index" else []
        assert all(mask.dtype != torch.bool for mask in masks if mask is not None), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "names", [(), ("confidence", "el2n"), ("features",), ("grad_norm",), ("rank",)], ids=str
)
@pytest.mark.parametrize("kind", SHAPES)
def test_no_signal_waits_for_the_device(kind, names, monkeypatch):
    """Beside the model's own forward pass, which transformers writes."""
    loss = LabelLoss(small_model(kind))
    batch = label_batch(examples_of(random_tokens(4)))
    with torch.inference_mode():
        expected = signals_of(loss, batch, names)
    forward, base = loss.model.forward, loss.model.base_model.forward

    def outside(function):
        def call(*args, **named):
            with torch.utils._python_dispatch._disable_current_modes():
                return function(*args, **named)

        return call

    monkeypatch.setattr(loss.model, "forward", outside(forward))
    monkeypatch.setattr(loss.model.base_model, "forward", outside(base))
    with NoWaiting(), torch.inference_mode():
        found = signals_of(loss, batch, names)
    assert found.keys() == {"loss", *names}
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_the_guard_sees_what_waits():
    ids = torch.arange(4)
    for waits in (lambda: ids[ids > 1], lambda: ids.sum().item(), lambda: ids.nonzero()):
        with pytest.raises(AssertionError), NoWaiting():
            waits()


def test_a_gpu_takes_wide_blocks_of_the_vocabulary():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert block_width(4000, cpu) == block_width(1, cpu) == 2048
    assert block_width(1000, gpu) == (1 << 26) // 1000  # of 256 MB in fp32
    assert block_width(1 << 20, gpu) == 2048
    assert block_width(0, gpu) == 1 << 26
