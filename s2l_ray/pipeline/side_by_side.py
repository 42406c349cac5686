"""Trainings side by side, each in a thread of the driver."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from multiprocessing.pool import ThreadPool

from s2l_ray.errors import Damaged
from s2l_ray.store import Manifest

logger = logging.getLogger(__name__)


def side_by_side(
    tune: Callable[[str], Manifest], names: Iterable[str], at_once: int
) -> dict[str, Manifest]:
    """Return tune(name) for each name, several at a time. After an error no other begins, and the
    error is raised when those under way have ended. KeyboardInterrupt does not wait for them: they
    end with the driver."""
    if at_once > 1:
        from transformers import AutoTokenizer  # noqa: F401 (threads may meet it half imported)
    failed = list[BaseException]()
    stopped = threading.Event()

    def begin(name: str) -> Manifest | None:
        if failed:
            return None
        try:
            return tune(name)
        except BaseException as error:
            failed.append(error)
            # Run.finish logs what is damaged, and repairs it.
            if not isinstance(error, Damaged) and not stopped.is_set():
                reason = str(error) or type(error).__name__
                logger.error(f"target {name}: {reason}; no other one begins")
            return None

    try:
        with ThreadPool(at_once) as pool:
            made = dict(zip(names, pool.map(begin, names, chunksize=1), strict=True))
    except KeyboardInterrupt as error:
        stopped.set()
        failed.append(error)
        raise
    if failed:
        raise failed[0]
    return {name: manifest for name, manifest in made.items() if manifest is not None}
