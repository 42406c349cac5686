"""MLflow: a run in the experiment MLFLOW_EXPERIMENT_NAME of MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from s2l_ray.execution.events import Point
from s2l_ray.execution.trackers.tracking import Start

EXPERIMENT = "s2l-ray"
BATCH = 1000  # metrics that MLflow takes at once


class Tracker:
    def __init__(self, start: Start) -> None:
        self.client = MlflowClient()
        self.reached: dict[str, int] = {}
        self.run_id = self._known(start.known.get("run_id")) or self._new(start)
        self.ids = {"run_id": self.run_id}

    def curve(self, series: str, points: list[Point]) -> None:
        key, now = _key(series), int(1000 * time.time())
        if series not in self.reached:
            before = self.client.get_metric_history(self.run_id, f"{key}/loss")
            self.reached[series] = max((each.step for each in before), default=-1)
        new = [point for point in points if point.step > self.reached[series]]
        metrics = [
            Metric(f"{key}/{name}", value, now, point.step)
            for point in new
            for name, value in point._asdict().items()
            if name != "step" and value is not None
        ]
        for first in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[first : first + BATCH])
        if new:
            self.reached[series] = new[-1].step

    def seconds(self, stage: str, seconds: float) -> None:
        # A stage may be below another, as targets/NAME/tokens is. Names of metrics may not: the
        # file store makes folders of them.
        name = _key(stage).replace("/", ".")
        self.client.log_metric(self.run_id, f"seconds/{name}", seconds)

    def selection(
        self, name: str, summary: dict[str, Any], tables: dict[str, dict[str, int]]
    ) -> None:
        for key, value in summary.items():
            if isinstance(value, int | float):
                self.client.log_metric(self.run_id, f"{_key(name)}/{key}", value)
        self.client.log_dict(self.run_id, summary | tables, f"{_key(name)}.json")

    def page(self, file: str, text: str) -> None:
        self.client.log_text(self.run_id, text, f"report/{file}")

    def end(self, error: str | None) -> None:
        status = {None: "FINISHED", "interrupted": "KILLED"}.get(error, "FAILED")
        self.client.set_terminated(self.run_id, status)

    def _known(self, run_id: str | None) -> str | None:
        """Return a run to go on with, unless the server does not have it any more."""
        if run_id is None:
            return None
        try:
            self.client.update_run(run_id, "RUNNING")
        except MlflowException:
            return None
        return run_id

    def _new(self, start: Start) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        tags = {"s2l_ray.run_dir": start.store.uri, "s2l_ray.name": start.title}
        return self.client.create_run(experiment, run_name=start.name, tags=tags).info.run_id


def _key(name: str) -> str:
    """Return a name that MLflow takes: "proxy (seed 1)" as "proxy seed 1"."""
    return re.sub(r"[^\w./ -]", "", name)
