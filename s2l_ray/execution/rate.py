"""How fast something goes now, without the time that it took to start."""

from __future__ import annotations

import time
from collections import deque

WINDOW = 60.0  # seconds that the rate is taken over
SHORTEST = 2.0  # seconds; there is no rate before
SPACING = 0.25  # seconds between two points, at least


class Rate:
    """Units per second over the last WINDOW seconds.

    Time counts from the moment at which the first unit was done: what comes before it is mostly
    start-up.
    """

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None  # time, and the units done then
        self.points: deque[tuple[float, float]] = deque()

    def add(self, done: float) -> None:
        """Note that `done` units are done now. Call it when this number has changed."""
        point = time.monotonic(), done
        self.first = self.first or point
        if len(self.points) > 1 and point[0] - self.points[-2][0] < SPACING:
            self.points.pop()
        self.points.append(point)
        while len(self.points) > 2 and self.points[1][0] < point[0] - WINDOW:
            self.points.popleft()

    def skip(self, amount: float) -> None:
        """Note that this many units more are done, which took no time here."""
        if self.first is not None:
            self.first = self.first[0], self.first[1] + amount
        self.points = deque((seconds, done + amount) for seconds, done in self.points)

    @property
    def now(self) -> float | None:
        """Units per second; None if it is too early to say."""
        return _between(self.points[0], self.points[-1]) if self.points else None

    @property
    def overall(self) -> float | None:
        """Units per second since the first was done; None if it is too early to say."""
        return _between(self.first, self.points[-1]) if self.first else None


def _between(first: tuple[float, float], last: tuple[float, float]) -> float | None:
    seconds, done = last[0] - first[0], last[1] - first[1]
    return done / seconds if seconds >= SHORTEST and done > 0 else None
