"""Raise the errors of remote code in the driver with their own type and message.

Ray wraps an error of a task, an actor or a Train worker in its own, whose text is the remote
traceback. That is right for a bug. For an error that a user can fix, the message is enough, and
callers need the type: a run repairs the stage that `Damaged` names.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import OutOfDiskError, RayError, RayTaskError

from s2l_ray.errors import (
    ConfigError,
    Damaged,
    GPUFailed,
    LeaseLost,
    NodeFull,
    ObjectStoreFull,
    StorageError,
    TooFew,
)
from s2l_ray.execution.nodes import num_cpus

Item = TypeVar("Item")

TASKS_PER_CPU = 2  # submitted at a time, so that a new node finds work waiting

# Compared by exact type: a subclass from a library, such as pyarrow's ArrowInvalid, is a bug and
# keeps its traceback.
FIXABLE = (
    ValueError, ConfigError, Damaged, GPUFailed, LeaseLost, NodeFull, StorageError, TooFew
)  # fmt: skip

# Ray Data appends advice on retries, which does not apply.
_ADVICE = re.compile(r"\nFailed to [^\n]* after \d+/\d+ attempts.*", re.DOTALL)


def fixable(error: BaseException) -> Exception | None:
    """Return the error inside a Ray error, as it was raised, if a user can fix it; otherwise None.

    error: of a task, an actor's method, a Ray Data task, or Ray Train (of several workers, the
    failure with the lowest rank counts). An error in an actor's `__init__` cannot be found, because
    Ray keeps its text only.
    """
    if isinstance(error, OutOfDiskError):
        where = re.search(r"\bip=([^\s,)]+)", str(error))
        return ObjectStoreFull(
            f"{f'node {where[1]}' if where else 'a node'}: Ray's object store is full, and so is "
            "the disk that it spills to: make room there, or start Ray with a larger "
            "--object-store-memory, or with --object-spilling-directory on a larger disk. The same "
            "command continues"
        )
    if type(error) in FIXABLE:
        args = [_ADVICE.sub("", arg) if isinstance(arg, str) else arg for arg in error.args]
        return cast(Exception, type(error)(*args))  # a new one has no traceback
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    inner = [failure for _, failure in sorted(failures.items())]
    if isinstance(error, RayTaskError) and error.cause is not None:
        inner.append(error.cause)
    found = (fixable(each) for each in inner)
    return next((each for each in found if each is not None), None)


@contextmanager
def plain_errors() -> Iterator[None]:
    """In the block, replace a Ray error by the error inside it, if a user can fix that."""
    try:
        yield
    except RayError as error:
        found = fixable(error)
        if found is None:
            raise
        raise found from None


def get(refs: Any) -> Any:
    """Like `ray.get`, with `plain_errors`."""
    with plain_errors():
        return ray.get(refs)


def in_order(
    submit: Callable[[Item], Any], items: Iterable[Item], most: int | None = None
) -> Iterator[Any]:
    """Submit a Ray task per item, at most `most` at a time, and yield the tasks in item order.

    most: by default a few per CPU of the cluster. The tasks still under way are cancelled if the
    caller stops early, for example because one failed.
    """
    rest, under_way = iter(items), deque[Any]()
    try:
        while True:
            at_a_time = most or TASKS_PER_CPU * num_cpus()
            room = max(0, at_a_time - len(under_way))
            under_way.extend(submit(item) for item in islice(rest, room))
            if not under_way:
                return
            yield under_way.popleft()
    finally:
        for task in under_way:
            ray.cancel(task, force=True)  # without force a task that is just starting goes on


def rows_of(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Dataset, with `plain_errors`."""
    with _original_errors(dataset):
        yield from dataset.iter_rows()


def blocks_of(dataset: ray.data.Dataset) -> list[ray.ObjectRef]:
    """Read a Dataset into Ray's object stores; return references to its blocks, Arrow tables."""
    with _original_errors(dataset):
        return dataset.to_arrow_refs()


@contextmanager
def _original_errors(dataset: ray.data.Dataset) -> Iterator[None]:
    # Otherwise Ray Data raises an error of its own, and pickling loses the one that caused it.
    context = dataset.context  # may belong to the user's dataset, so restore it
    before, context.raise_original_map_exception = context.raise_original_map_exception, True
    try:
        with plain_errors():
            yield
    finally:
        context.raise_original_map_exception = before
