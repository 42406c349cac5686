"""How far a training worker is, for the driver to show."""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.execution.progress import Progress


@ray.remote(max_restarts=-1)
class Board:
    """Where a worker writes how far it is, for the driver to show."""

    def __init__(self) -> None:
        self.news: tuple[int, str] = (0, "")

    def write(self, done: int, note: str) -> None:
        self.news = (done, note)

    def read(self) -> tuple[int, str]:
        return self.news


def make_board() -> Any:
    """On the driver's node: elsewhere it would keep an idle node from being released."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Board.options(num_cpus=0, scheduling_strategy=here).remote()  # type: ignore[attr-defined]


def step_on(board: Any) -> int:
    """How far the worker is; 0 if the board is lost."""
    try:
        return ray.get(board.read.remote())[0]
    except ray.exceptions.RayError:
        return 0


class watch:
    """`with watch(board, progress):` shows the board's news while the block runs."""

    def __init__(self, board: Any, progress: Progress) -> None:
        self.board, self.progress, self.over = board, progress, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self._show()

    def _run(self) -> None:
        while not self.over.wait(1.0):
            self._show()

    def _show(self) -> None:
        try:
            done, note = ray.get(self.board.read.remote())
        except ray.exceptions.RayError:
            return  # lost: what it shows is not worth the training
        if done and not self.progress.done:
            self.progress.resume_at(done)
        if done:
            self.progress.set(done, note)
