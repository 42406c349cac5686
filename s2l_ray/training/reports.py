"""What a training function of the user's own reports to Ray Train: steps, losses and tokens."""

from __future__ import annotations

import numbers
import time
from typing import Any

import ray
from ray.train import Checkpoint, UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.execution.events import Point
from s2l_ray.store import Part, Store

HISTORY_POINTS = 500  # at most, of the training curve

# Of a training that has not begun. step, tokens: None until the function reports them.
# seconds: of the function, in all attempts.
BEGINNING: dict[str, Any] = {
    "step": None,
    "workers": None,
    "seconds": 0.0,
    "waiting": None,
    "tokens": None,
    "padded_tokens": None,
    "history": [],
    "files": None,
}


def state_of(store: Store, folder: str) -> dict[str, Any]:
    """Return what was reported up to the newest checkpoint that the function can go on from."""
    if store.exists(folder, "resume", "reported.json"):
        return store.read_json(folder, "resume", "reported.json")
    return BEGINNING | {"history": []}


@ray.remote(num_cpus=0)
class Reports:
    """Collects what the first worker reports. `board` shows it in the driver."""

    def __init__(self, store: Store, folder: str, board: Any) -> None:
        self.store, self.folder, self.board = store, folder, board
        self.state = state_of(store, folder)
        self.began = time.monotonic()

    def begin(self, workers: int) -> None:
        """Begin an attempt, from the newest checkpoint on."""
        self.state = state_of(self.store, self.folder) | {"workers": workers}
        self.before, self.began = self.state["seconds"], time.monotonic()
        self.every = 1

    def add(self, metrics: dict[str, Any], kept: bool) -> None:
        """kept: a checkpoint came with the metrics."""
        state = self.state
        state["seconds"] = self.before + time.monotonic() - self.began
        step, loss, tokens = (_number(metrics, name) for name in ("step", "loss", "tokens"))
        if tokens is not None:
            state["tokens"] = int(tokens)
        if step is not None:
            state["step"] = int(step)
            note = "" if loss is None else f"loss {loss:.3f}"
            speed = state["tokens"] and state["tokens"] / max(state["seconds"], 1e-9)
            point = Point(int(step), loss, _number(metrics, "learning_rate"), speed)
            self.board.write.remote(int(step), note, point)
        if step is not None and loss is not None:
            history = state["history"]
            if history and history[-1][0] == int(step):
                history.pop()  # reported again, with a checkpoint
            history.append([int(step), round(loss, 6)])
            if len(history) > 2 * HISTORY_POINTS:
                state["history"] = history[1::2]
        if kept:
            self.store.write_json(state, self.folder, "resume", "reported.json")

    def end(self, files: list[Part]) -> None:
        """files: of the model that the function has left."""
        self.state["seconds"] = self.before + time.monotonic() - self.began
        self.state["files"] = [file.to_json() for file in files]

    def read(self) -> dict[str, Any]:
        return self.state


class Tell(UserCallback):
    """Sends reports to the actor. Ray Train calls it in its controller."""

    def __init__(self, store: Store, reports: Any) -> None:
        self.store, self.reports = store, reports

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        if checkpoint is not None:
            self.store.guard()
        self.reports.add.remote(metrics[0], checkpoint is not None)


def make_reports(store: Store, folder: str, board: Any) -> Any:
    """Start a Reports actor on the driver's node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Reports.options(scheduling_strategy=here).remote(store, folder, board)  # type: ignore[attr-defined]


def _number(metrics: dict[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return float(value) if isinstance(value, numbers.Real) else None
