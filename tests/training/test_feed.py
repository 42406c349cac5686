"""A worker's batches: made in advance, its own rows only, windows read once per node."""

import threading
import time
from itertools import count, islice

import numpy as np
import pytest
import torch
from support.models import random_tokens

from s2l_ray.models.ahead import ahead
from s2l_ray.models.batch import examples_of
from s2l_ray.store import scratch
from s2l_ray.training.batches import BatchStream
from s2l_ray.training.feed import step_batches
from s2l_ray.training.node_windows import NodeWindows
from s2l_ray.training.windows import Window

TABLES = [random_tokens(30, seed=part, first_id=100 * part) for part in range(4)]
ROWS = [int((table["num_label_tokens"].to_numpy() > 0).sum()) for table in TABLES]


def stream(read=TABLES.__getitem__, **how):
    return BatchStream(read, ROWS, seed=1, batch_size=12, window_rows=40, **how)


def feed(rank, world, **how):
    return step_batches(
        stream(**how), 0, micro_batch_size=2, rank=rank, world=world, device=torch.device("cpu")
    )


def test_workers_share_a_batch_and_make_only_their_own_rows(monkeypatch):
    made = []
    example = Window.example
    monkeypatch.setattr(Window, "example", lambda w, row: made.append(row) or example(w, row))
    shares = [list(islice(feed(rank, 3), 20)) for rank in range(3)]
    time.sleep(0.2)  # until the threads have made the steps in advance
    assert len(made) <= 3 * (20 + 2) * 4
    monkeypatch.undo()
    for step, batch in enumerate(islice(stream().batches(), 20)):
        lengths = sorted(len(ids) for ids, _ in batch)
        rows = []
        for rank in range(3):
            share = shares[rank][step]
            assert share.labels == sum(int(mask.sum()) for _, mask in batch)
            assert (share.tokens, share.longest) == (sum(lengths), lengths[-1])
            assert [len(each.input_ids_BL) for each in share.micro_batches] == [2, 2]
            mine = [
                (ids, mask)
                for each in share.micro_batches
                for ids, mask in zip(each.input_ids_BL, each.loss_mask_BL, strict=True)
            ]
            for (ids, mask), length in zip(mine, lengths[rank::3], strict=True):
                assert not ids[length:].any() and not mask[length:].any()
                rows.append((*ids[:length].tolist(), *mask[:length].tolist()))
        assert sorted(rows) == sorted((*ids.tolist(), *mask.tolist()) for ids, mask in batch)


def test_items_are_made_in_advance_and_errors_come_in_their_place():
    made, free = [], threading.Event()

    def items():
        for number in count():
            made.append(number)
            if number == 4:
                free.set()
            if number == 5:
                raise ValueError("five")
            yield number

    found = ahead(items(), 2)
    assert [next(found), next(found)] == [0, 1]
    assert not free.wait(0.1) and made == [0, 1, 2, 3]  # two in advance
    assert [next(found), next(found), next(found)] == [2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(found)


def test_a_node_reads_a_window_once(store, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_place", lambda: tmp_path)
    parts = [store.write_part(table, "tokens", f"part-{i}") for i, table in enumerate(TABLES)]
    tokens = store.commit("tokens", "tokens", parts, {})
    read, windows = [], []

    def reading(index):
        read.append(index)
        return store.read_part("tokens", parts[index])

    for _ in range(2):  # two workers
        windows.append(NodeWindows("training", tokens, 1))
    feeds = [feed(rank, 2, read=reading, shared=windows[rank]) for rank in range(2)]
    plain = [feed(rank, 2) for rank in range(2)]
    for _ in range(16):  # two epochs of two windows
        for shared, alone in zip(feeds, plain, strict=True):
            for one, other in zip(
                next(shared).micro_batches, next(alone).micro_batches, strict=True
            ):
                assert all(map(torch.equal, one[:2], other[:2]))
    order = [part for epoch in range(3) for window in stream().windows(epoch) for part in window]
    assert read == order[: len(read)] and len(read) >= 8
    deadline = time.monotonic() + 5  # a window may be on its way
    kept = [path for path in tmp_path.glob("window-*") if path.is_dir()]
    while len(kept) < 2 and time.monotonic() < deadline:
        kept = [path for path in tmp_path.glob("window-*") if path.is_dir()]
    assert 2 <= len(kept) <= 3
    array = np.load(kept[0] / "ids.npy", mmap_mode="r")
    for each in windows:
        each.close()
    deadline = time.monotonic() + 5  # a window may be on its way
    while any(path.is_dir() for path in tmp_path.glob("window-*")):
        assert time.monotonic() < deadline
    assert len(array)  # still mapped


def test_lengths_and_labels_are_those_of_the_examples():
    batch = next(stream().batches())
    assert batch.lengths_B.tolist() == [len(ids) for ids, _ in batch]
    assert batch.labels_B.tolist() == [int(mask.sum()) for _, mask in batch]
    known = {
        tuple(ids.tolist()): mask.tolist() for table in TABLES for ids, mask in examples_of(table)
    }
    assert all(known[tuple(ids.tolist())] == mask.tolist() for ids, mask in batch)
