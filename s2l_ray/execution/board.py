"""The progress of a training and its curve, sent from a worker to the driver."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.execution import events
from s2l_ray.execution.events import Point
from s2l_ray.execution.progress import Progress

_free = defaultdict[str, list[Any]](list)  # Boards that were given back, by the driver's node
POINTS = 1000  # of the curve, kept until the driver reads them, which it does each second


@ray.remote(max_restarts=-1)
class Board:
    """Keeps the last step that a training worker wrote, a note, and the newest points of the
    training curve."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.last: tuple[int, str] = (0, "")
        self.points, self.count = deque[Point](maxlen=POINTS), 0

    def write(self, step: int, note: str, point: Point | None = None) -> None:
        self.last = (step, note)
        if point is not None:
            self.points.append(point)
            self.count += 1

    def read(self, seen: int = 0) -> tuple[int, str, list[Point], int]:
        """Return the last step, its note, the points after the first `seen`, and the number of
        all."""
        new = self.count - seen if self.count >= seen else self.count  # fewer: the board restarted
        return *self.last, list(self.points)[max(0, len(self.points) - new) :], self.count


def make_board() -> Any:
    """Return an empty Board on the driver's node: one that was given back, or else start one. On
    another node it would keep an idle node alive."""
    node = ray.get_runtime_context().get_node_id()
    with suppress(IndexError, ray.exceptions.RayError):  # there is none, or it has died
        board = _free[node].pop()
        ray.get(board.clear.remote())
        return board
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return Board.options(num_cpus=0, scheduling_strategy=here).remote()  # type: ignore[attr-defined]


def give_back(board: Any) -> None:
    """Keep the Board of a training that has ended for the next one: it is a process, and takes 1.4
    CPU seconds to start."""
    _free[ray.get_runtime_context().get_node_id()].append(board)


def step_on(board: Any) -> int:
    """Return the last step written; 0 if there is none, or if the board is lost."""
    return _read(board)[0]


@contextmanager
def watch(board: Any, progress: Progress) -> Iterator[None]:
    """Show the board's last step as progress while the block runs."""
    over, stages, seen = threading.Event(), events.here(), 0

    def show() -> None:
        nonlocal seen
        step, note, points, seen = _read(board, seen)
        if points and stages:
            events.tell(lambda each: each.trained(stages[0], points))
        if step:
            progress.set(step, note)

    def run() -> None:
        while not over.wait(1.0):
            show()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        show()


def _read(board: Any, seen: int = 0) -> tuple[int, str, list[Point], int]:
    if not ray.is_initialized():  # the driver is stopping; a call would start Ray again
        return 0, "", [], seen
    try:
        return ray.get(board.read.remote(seen))
    except ray.exceptions.RayError:
        return 0, "", [], seen  # a lost board must not end the training
