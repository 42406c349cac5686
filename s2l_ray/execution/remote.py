"""Results of Ray tasks and Datasets; errors of ours arrive as what they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import ray

from s2l_ray.errors import Damaged, LeaseLost, StorageError

# Errors that say what a user can mend; to try again would not help.
KNOWN = (ValueError, Damaged, StorageError, LeaseLost)


def plain_rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a Dataset; an error of KNOWN raised in its tasks arrives as what it was."""
    # Otherwise Ray Data raises its own error from ours, and pickling loses what it came from.
    before = dataset.context.raise_original_map_exception
    dataset.context.raise_original_map_exception = True  # of a user's own dataset, maybe
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayTaskError as error:
        cause: BaseException | None = error
        while cause is not None and type(cause) not in KNOWN:
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        if isinstance(cause, Damaged):
            raise Damaged(str(cause), cause.folder) from None
        # Ray Data adds advice on retries, which would not help.
        raise type(cause)(str(cause).split("\nFailed to ")[0]) from None
    finally:
        dataset.context.raise_original_map_exception = before


def results(refs: Iterable[ray.ObjectRef]) -> Iterator[Any]:
    """Results of Ray tasks as they come; at most one of them on the driver at a time."""
    waiting = list(refs)
    while waiting:
        done, waiting = ray.wait(waiting)
        yield ray.get(done[0])
