"""Errors of remote code, raised in the driver with their own type and message.

Ray wraps what a task, actor or Train worker raises in errors of its own, whose text is the whole
remote traceback. That is right for a bug. For an error that a user can fix only the message counts,
and `Run.finish` needs the type: it repairs what `Damaged` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from s2l_ray.errors import ConfigError, Damaged, LeaseLost, NodeFull, StorageError, TooFew

# Compared by exact type: subclasses that libraries raise, such as pyarrow's ArrowInvalid, are bugs
# here and keep their traceback.
FIXABLE = (ValueError, ConfigError, Damaged, LeaseLost, NodeFull, StorageError, TooFew)

# Ray Data appends advice on retries, which would not help.
_ADVICE = re.compile(r"\nFailed to [^\n]* after \d+/\d+ attempts.*", re.DOTALL)


def fixable(error: BaseException) -> Exception | None:
    """Return the error that a user can fix inside one of Ray's, as it was raised, or None.

    error: of a task, an actor's method, a Ray Data task or a Ray Train worker (of several that
    failed, the first by rank). An error in an actor's `__init__` reaches the driver as text only;
    actors of this package do what may fail in their methods.
    """
    if type(error) in FIXABLE:
        args = [_ADVICE.sub("", arg) if isinstance(arg, str) else arg for arg in error.args]
        return cast(Exception, type(error)(*args))  # a fresh one has no trace
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    inner = [failure for _, failure in sorted(failures.items())]
    if isinstance(error, RayTaskError) and error.cause is not None:
        inner.append(error.cause)
    found = (fixable(each) for each in inner)
    return next((each for each in found if each is not None), None)


@contextmanager
def plain_errors() -> Iterator[None]:
    """In the block, raise an error that a user can fix instead of Ray's error around it."""
    try:
        yield
    except RayError as error:
        found = fixable(error)
        if found is None:
            raise
        raise found from None


def get(refs: Any) -> Any:
    """As `ray.get`, with `plain_errors`."""
    with plain_errors():
        return ray.get(refs)


def rows_of(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Dataset, with `plain_errors`."""
    # Otherwise Ray Data raises its own error from ours, and pickling loses what it came from.
    context = dataset.context  # of a user's own dataset, maybe: put it back
    before, context.raise_original_map_exception = context.raise_original_map_exception, True
    try:
        with plain_errors():
            yield from dataset.iter_rows()
    finally:
        context.raise_original_map_exception = before
