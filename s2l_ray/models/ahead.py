"""Make items in advance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(
    items: Iterator[T], count: int, *, prepare: Callable[[], None] | None = None
) -> Iterator[T]:
    """Yield the items. A thread makes up to `count` of them while the caller works on one.

    An error of an item is raised in its place. prepare: called once, first, in the thread.
    """
    end = object()
    pool = ThreadPoolExecutor(1, "ahead", initializer=prepare)
    waiting = deque(pool.submit(next, items, end) for _ in range(count))
    try:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        for made in waiting:
            made.cancel()
        pool.shutdown(wait=False)
