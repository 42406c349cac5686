"""The progress of a training, sent from a worker to the driver."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.execution.progress import Progress


@ray.remote(max_restarts=-1)
class Board:
    """Keeps the last step that a training worker wrote, and a note."""

    def __init__(self) -> None:
        self.last: tuple[int, str] = (0, "")

    def write(self, step: int, note: str) -> None:
        self.last = (step, note)

    def read(self) -> tuple[int, str]:
        return self.last


def make_board() -> Any:
    """Start a Board on the driver's node. On another one it would keep an idle node alive."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Board.options(num_cpus=0, scheduling_strategy=here).remote()  # type: ignore[attr-defined]


def step_on(board: Any) -> int:
    """Return the last step written; 0 if there is none, or if the board is lost."""
    return _read(board)[0]


@contextmanager
def watch(board: Any, progress: Progress) -> Iterator[None]:
    """Show the board's last step as progress while the block runs."""
    over = threading.Event()

    def show() -> None:
        step, note = _read(board)
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


def _read(board: Any) -> tuple[int, str]:
    try:
        return ray.get(board.read.remote())
    except ray.exceptions.RayError:
        return 0, ""  # a lost board must not end the training
