"""Bring the rows of many items together by group, in two waves of Ray tasks.

`scatter` reads each item in a task and leaves a table per group behind; `gather` hands each group
its tables. The tables stay in Ray's object stores, which spill to disk. The driver holds references
to them, so their number should stay below some 100,000. Tables below 100 KB would pass through its
memory: choose fewer groups or larger tables.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray

from s2l_ray.execution.nodes import cpu_work, disk_errors
from s2l_ray.execution.remote import get, in_order

Result = TypeVar("Result")


def scatter(
    function: Callable[..., Generator[list[pa.Table], None, Any]],
    items: Iterable[Any],
    num_groups: int,
    *args: Any,
) -> Iterator[tuple[list[list[ray.ObjectRef]], Any]]:
    """Yield, item by item, references to the tables of each group, and what the function returns.

    `function(item, *args)` yields lists of one table per group, as often as memory demands; what it
    returns should be small. An item that is a reference arrives as what it refers to. `args` are
    sent to each node once.
    """
    shared = ray.put((function, args))
    submit = _scatter.options(
        name=function.__name__, scheduling_strategy="SPREAD", **cpu_work()
    ).remote
    for task in in_order(lambda item: submit(shared, num_groups, item), items):
        *tables, end = task
        returned = get(end)  # raises what the task raised
        yield [tables[group::num_groups] for group in range(num_groups)], returned


def gather(
    function: Callable[..., Result], groups: Sequence[list[ray.ObjectRef]], *args: Any
) -> Iterator[Result]:
    """Yield `function(group, tables, *args)` for each group in order; the result should be small.

    The tables come in the order of the references, and are freed with them: `groups` is emptied.
    """
    shared = ray.put((function, args))
    submit = _gather.options(
        name=function.__name__, scheduling_strategy="SPREAD", **cpu_work()
    ).remote
    for number, task in enumerate(
        in_order(lambda group: submit(shared, group, *groups[group]), range(len(groups)))
    ):
        result = get(task)
        groups[number].clear()
        yield result


@ray.remote(num_returns="streaming")
def _scatter(shared: tuple[Callable[..., Any], tuple[Any, ...]], num_groups: int, item: Any) -> Any:
    function, args = shared
    with disk_errors():
        returned = yield from _one_by_one(function(item, *args), num_groups)
    yield returned


def _one_by_one(lists: Generator[list[Any], None, Any], length: int) -> Generator[Any, Any, Any]:
    while True:
        try:
            tables = next(lists)
        except StopIteration as end:
            return end.value
        assert len(tables) == length
        for table in tables:  # noqa: UP028 (Ray sends values, which a list does not take)
            yield table


@ray.remote
def _gather(
    shared: tuple[Callable[..., Any], tuple[Any, ...]], group: int, *tables: pa.Table
) -> Any:
    function, args = shared
    with disk_errors():
        return function(group, tables, *args)
