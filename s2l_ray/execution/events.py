"""What happens in a run, told to those who watch it: the status in the run directory, trackers,
Ray's metrics. All of it happens in the driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from s2l_ray.execution.progress import Progress
    from s2l_ray.store import Manifest


class Point(NamedTuple):
    """A point of a training curve: means and rates since the point before. None: not known."""

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Item:
    """One stage that a command makes or finds, or `count` stages whose names match a pattern.

    folders: where the stage may be; none if that depends on what is made before.
    pattern: a regular expression of whole names.
    """

    name: str
    folders: tuple[str, ...] = ()
    pattern: str = ""
    count: int = 1


class Listener:
    """Gets events in the thread in which they happen; several threads may call it at once. It must
    return quickly and raise nothing."""

    wants_pages = False  # `reported` is called

    def expected(self, fingerprint: str, items: list[Item]) -> None:
        """The run knows what its command makes. fingerprint: of the result."""

    def stages_began(self, stages: list[str]) -> None:
        """stages: folders of stages that are made together, by the calling thread."""

    def stages_stopped(self, stages: list[str]) -> None:
        """These are made no longer: they are finished, or there was an error."""

    def stage_ended(self, stage: Manifest, seconds: float, reused: bool) -> None:
        """The stage is finished. reused: it was there. seconds: that it took, if it was not."""

    def progressed(self, progress: Progress) -> None:
        """Something with a progress line began, moved, or is over (progress.state)."""

    def trained(self, stage: str, points: list[Point]) -> None:
        """A training got further. stage: its folder. After a restart, points come again."""

    def reported(self, file: str, page: str) -> None:
        """A page was written. file: below report/. page: HTML without text of examples."""

    def ended(self, error: BaseException | None) -> None:
        """The run has ended, and with what error."""


listeners: list[Listener] = []

_making = threading.local()


def tell(event: Callable[[Listener], None]) -> None:
    """Call `event` with each listener."""
    for each in list(listeners):
        event(each)


def pages_wanted() -> bool:
    """Return whether a listener wants pages, which take a while to make."""
    return any(each.wants_pages for each in listeners)


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
