"""Rows come together by group, in order of the items; errors arrive as they were raised."""

import time

import pyarrow as pa
import pytest
import ray

from s2l_ray.execution.shuffle import gather, scatter


def by_remainder(item, num_groups, chunk):
    """The numbers below `item`, in chunks, each in the group of its remainder."""
    for first in range(0, item, chunk):
        numbers = range(first, min(item, first + chunk))
        yield [
            pa.table({"n": pa.array([n for n in numbers if n % num_groups == g], pa.int64())})
            for g in range(num_groups)
        ]
    return item


def numbers_of(group, tables, add):
    return group, [n + add for table in tables for n in table["n"].to_pylist()]


def broken(item, seconds):
    if item == 1:
        raise ValueError("file 1: damaged")
    time.sleep(seconds)
    yield [pa.table({"n": [item]})]


def scattered(items, num_groups, *args, function=by_remainder):
    groups, all_returned = [[] for _ in range(num_groups)], []
    for found, returned in scatter(function, items, num_groups, *args):
        all_returned.append(returned)
        for group, tables in zip(groups, found, strict=True):
            group += tables
    return groups, all_returned


def test_rows_come_together_by_group(local_ray):
    groups, returned = scattered([5, 0, 4], 3, 3, 2)
    assert returned == [5, 0, 4]
    assert [len(group) for group in groups] == [5, 5, 5]  # chunks of two: three, none and two
    expected = [(0, [10, 13, 10, 13]), (1, [11, 14, 11]), (2, [12, 12])]
    assert list(gather(numbers_of, groups, 10)) == expected
    assert groups == [[], [], []]  # the tables are freed


def test_references_arrive_as_what_they_refer_to(local_ray):
    groups, _ = scattered([ray.put(3)], 2, 2, 10)
    assert list(gather(numbers_of, groups, 0)) == [(0, [0, 2]), (1, [1])]


def test_an_error_is_raised_as_it_was_and_ends_the_other_tasks(local_ray):
    began = time.monotonic()
    free = ray.available_resources().get("CPU", 0)  # actors of the tests before may still be ending
    with pytest.raises(ValueError, match=r"^file 1: damaged$") as caught:
        scattered([1, 2, 3, 4, 5, 6], 1, 60, function=broken)
    assert type(caught.value) is ValueError
    deadline = time.monotonic() + 30  # cancelled tasks give their CPUs back
    while ray.available_resources().get("CPU", 0) < free:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert time.monotonic() - began < 50


def fails_on_two(group, tables):
    if group == 2:
        raise ValueError("part 2: cannot be written")
    return group


def test_an_error_while_gathering(local_ray):
    groups, _ = scattered([9], 3, 3, 10)
    found = gather(fails_on_two, groups)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match=r"^part 2: cannot be written$"):
        next(found)
