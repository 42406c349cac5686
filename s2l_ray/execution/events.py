"""What happens in a run, told to those who watch it: the status in the run directory, trackers,
Ray's metrics. All of it happens in the driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from s2l_ray.execution.progress import Progress, watchers

if TYPE_CHECKING:
    from s2l_ray.store import Manifest


class Listener:
    """Gets events in the thread in which they happen; several threads may call it at once. It must
    return quickly and raise nothing."""

    def stages_began(self, stages: list[str]) -> None:
        """stages: folders of stages that are made together, by the calling thread."""

    def stages_stopped(self, stages: list[str]) -> None:
        """These are made no longer: they are finished, or there was an error."""

    def stage_ended(self, stage: Manifest, seconds: float, reused: bool) -> None:
        """The stage is finished. reused: it was there. seconds: that it took, if it was not."""

    def progressed(self, progress: Progress) -> None:
        """Something with a progress line began, moved, or is over (progress.state)."""

    def ended(self, error: BaseException | None) -> None:
        """The run has ended, and with what error."""


listeners: list[Listener] = []

_making = threading.local()


def listen(listener: Listener) -> None:
    listeners.append(listener)
    watchers.append(listener.progressed)


def leave(listener: Listener) -> None:
    listeners.remove(listener)
    watchers.remove(listener.progressed)


def tell(event: Callable[[Listener], None]) -> None:
    """Call `event` with each listener."""
    for each in list(listeners):
        event(each)


@contextmanager
def making(stages: list[str]) -> Iterator[None]:
    """Tell that the block makes stages. stages: their folders."""
    before, _making.stages = here(), stages
    tell(lambda each: each.stages_began(stages))
    try:
        yield
    finally:
        _making.stages = before
        tell(lambda each: each.stages_stopped(stages))


def here() -> list[str]:
    """Return the folders of the stages that this thread is making together."""
    return getattr(_making, "stages", [])
