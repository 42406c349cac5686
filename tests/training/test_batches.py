"""The order of training: full batches, every example once an epoch, exact positions, lengths."""

from itertools import islice

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.store.schemas import TOKENS
from s2l_ray.training.batches import BatchStream, grouped_by_length


def make(sizes, *, seed=0, batch_size=4, window_rows=1 << 16, log=None):
    """A stream over parts whose example e of part p is [p, e, 0, 0, …]; some have no label."""
    random = np.random.default_rng(5)
    tables = []
    for part, size in enumerate(sizes):
        rows = []
        for number in range(size + 1):
            ids = [part, number] + [0] * int(random.integers(1, 40))
            labels = 0 if number == size else len(ids) - 1  # the last row has none
            rows.append(
                {
                    "example_id": part * 1000 + number,
                    "input_ids": ids,
                    "loss_mask": [False] + [labels > 0] * (len(ids) - 1),
                    "num_label_tokens": labels,
                    "truncated": False,
                }
            )
        tables.append(pa.Table.from_pylist(rows, schema=TOKENS))

    def read(index):
        if log is not None:
            log.append(index)
        return tables[index]

    return BatchStream(read, list(sizes), seed=seed, batch_size=batch_size, window_rows=window_rows)


def names(batches):
    return [[tuple(ids[:2].tolist()) for ids, _ in batch] for batch in batches]


@pytest.mark.parametrize("window_rows", [1, 10, 1 << 16])
def test_each_epoch_holds_every_trainable_example_once(window_rows):
    sizes = (7, 1, 12, 4)
    stream = make(sizes, window_rows=window_rows)
    flat = [name for batch in names(islice(stream.batches(), 18)) for name in batch]
    everything = sorted((p, e) for p, size in enumerate(sizes) for e in range(size))
    assert sorted(flat[:24]) == sorted(flat[24:48]) == sorted(flat[48:72]) == everything
    assert flat[:24] != flat[24:48]


@pytest.mark.parametrize("window_rows", [1, 10, 1 << 16])
@pytest.mark.parametrize("batch_size", [3, 5, 50])
def test_any_position_is_found_again(window_rows, batch_size):
    stream = make((7, 1, 12, 4), batch_size=batch_size, window_rows=window_rows)
    whole = names(islice(stream.batches(), 20))
    assert {len(batch) for batch in whole} == {batch_size}
    for first in (0, 1, 2, 7, 19):
        assert names(islice(stream.batches(first), 20 - first)) == whole[first:]


def test_order_is_a_function_of_the_seed():
    assert names(islice(make((30, 30)).batches(), 9)) == names(islice(make((30, 30)).batches(), 9))
    assert names(islice(make((30, 30)).batches(), 9)) != names(
        islice(make((30, 30), seed=1).batches(), 9)
    )


def test_a_restart_reads_no_window_before_its_own():
    log = []
    stream = make([10] * 6, batch_size=5, window_rows=20, log=log)
    next(stream.batches(8))  # example 40: the third window
    third = stream.windows(0)[2]
    assert log[: len(third)] == third
    assert set(log[len(third) :]) <= set(stream.windows(1)[0])  # the next one, in advance


def test_batches_hold_examples_of_similar_length():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 500, 4000)
    order = grouped_by_length(lengths, random, batch_size=16, first=5)
    assert sorted(order.tolist()) == list(range(4000))
    grouped = lengths[order[5 : 5 + 16 * 249]].reshape(-1, 16)
    padding = 1 - grouped.sum() / (grouped.max(axis=1) * 16).sum()
    assert padding < 0.03  # in random order it is above 0.4
    assert np.abs(np.corrcoef(grouped.mean(axis=1), np.arange(249))[0, 1]) < 0.2


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="nothing to train on"):
        make((0, 0))


def test_a_wrong_count_is_found():
    stream = make((5, 5))
    stream.rows_per_part[0] = 4
    with pytest.raises(ValueError, match="part 0: found 5 trainable examples, expected 4"):
        list(islice(stream.batches(), 3))
