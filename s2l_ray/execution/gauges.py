"""Ray's own metrics of a run: on the dashboard of the cluster, and at Ray's Prometheus endpoint."""

from __future__ import annotations

from ray.util.metrics import Gauge

from s2l_ray.execution.events import Listener, Point
from s2l_ray.execution.progress import Progress


class Gauges(Listener):
    """Sets gauges, each tagged with the run's name. They end at 0."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.running = _gauge("stage_running", "1 while the stage is made", "stage")
        self.done = _gauge("done", "What is done of what has a progress line", "line", "unit")
        self.total = _gauge("total", "What there is to do of it", "line", "unit")
        self.speed = _gauge("tokens_per_second", "Of a training", "stage")

    def stages_began(self, stages: list[str]) -> None:
        self._set(self.running, stages, 1)

    def stages_stopped(self, stages: list[str]) -> None:
        self._set(self.running, stages, 0)
        self._set(self.speed, stages, 0)

    def progressed(self, progress: Progress) -> None:
        tags = {"run": self.run, "line": progress.stage, "unit": progress.unit}
        self.done.set(progress.done, tags)
        self.total.set(progress.total, tags)

    def trained(self, stage: str, points: list[Point]) -> None:
        if points[-1].tokens_per_second is not None:
            self._set(self.speed, [stage], points[-1].tokens_per_second)

    def _set(self, gauge: Gauge, stages: list[str], value: float) -> None:
        for folder in stages:
            gauge.set(value, {"run": self.run, "stage": folder.rpartition("/")[0]})


def _gauge(name: str, description: str, *tags: str) -> Gauge:
    return Gauge(f"s2l_ray_{name}", description, ("run", *tags))
