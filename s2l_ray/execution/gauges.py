"""Ray's own metrics of a run: on the dashboard of the cluster, and at Ray's Prometheus endpoint."""

from __future__ import annotations

import ray
from ray.util.metrics import Gauge

from s2l_ray.execution.events import Listener, Point
from s2l_ray.execution.progress import Progress

GAUGES = {
    "stage_running": "1 while the stage is made",
    "done": "What is done of what has a progress line",
    "total": "What there is to do of it",
    "tokens_per_second": "Of a training",
}


class Gauges(Listener):
    """Sets gauges, each tagged with the run's name. They end at 0."""

    def __init__(self, run: str) -> None:
        self.run, self.gauges = run, dict[str, Gauge]()

    def stages_began(self, stages: list[str]) -> None:
        self._set_all("stage_running", stages, 1)

    def stages_stopped(self, stages: list[str]) -> None:
        self._set_all("stage_running", stages, 0)
        self._set_all("tokens_per_second", stages, 0)

    def progressed(self, progress: Progress) -> None:
        tags = {"line": progress.stage, "unit": progress.unit}
        self._set("done", progress.done, tags)
        self._set("total", progress.total, tags)

    def trained(self, stage: str, points: list[Point]) -> None:
        if points[-1].tokens_per_second is not None:
            self._set_all("tokens_per_second", [stage], points[-1].tokens_per_second)

    def _set_all(self, name: str, stages: list[str], value: float) -> None:
        for folder in stages:
            self._set(name, value, {"stage": folder.rpartition("/")[0]})

    def _set(self, name: str, value: float, tags: dict[str, str]) -> None:
        if not ray.is_initialized():  # the driver reads a few parts by itself
            return
        if name not in self.gauges:
            self.gauges[name] = Gauge(f"s2l_ray_{name}", GAUGES[name], ("run", *tags))
        self.gauges[name].set(value, {"run": self.run} | tags)
