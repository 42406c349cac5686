"""Weights & Biases: a run in the project WANDB_PROJECT; WANDB_MODE=offline keeps it in files."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import wandb

from s2l_ray.execution.events import Point
from s2l_ray.execution.trackers.tracking import Start

PROJECT = "s2l-ray"


class Tracker:
    def __init__(self, start: Start) -> None:
        store = start.store
        place = os.environ.get("WANDB_DIR")
        if place is None:
            place = store.address("trackers") if store.is_local else tempfile.mkdtemp("s2l_ray-wb-")
        os.makedirs(place, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=start.name,
            id=start.known.get("id"),
            resume="allow",
            dir=place,
            config={"run_dir": store.uri, "name": start.title},
            # Only what is logged here leaves: no terminal output, code, machine or command line.
            settings=wandb.Settings(
                silent=True, console="off", save_code=False, disable_git=True,
                x_disable_meta=True, x_disable_stats=True, x_save_requirements=False,
            ),
        )  # fmt: skip
        self.ids = {"id": self.run.id}
        self.reached: dict[str, int] = {}

    def curve(self, series: str, points: list[Point]) -> None:
        if series not in self.reached:
            self.reached[series] = -1
            self.run.define_metric(f"{series}/*", step_metric=f"{series}/step")
        for point in points:
            if point.step > self.reached[series]:
                self.reached[series] = point.step
                self.run.log(
                    {
                        f"{series}/{name}": value
                        for name, value in point._asdict().items()
                        if value is not None
                    }
                )

    def seconds(self, stage: str, seconds: float) -> None:
        self.run.summary[f"seconds/{stage}"] = seconds

    def selection(
        self, name: str, summary: dict[str, Any], tables: dict[str, dict[str, int]]
    ) -> None:
        self.run.summary.update({f"{name}/{key}": value for key, value in summary.items()})
        for title, counts in tables.items():
            columns: list[str | int] = [title.removeprefix("by_"), "examples"]
            table = wandb.Table(columns=columns, data=[list(item) for item in counts.items()])
            self.run.log({f"{name}/{title}": table})

    def page(self, file: str, text: str) -> None:
        artifact = wandb.Artifact(f"report-{self.run.id}", type="report")
        with artifact.new_file(file) as out:
            out.write(text)
        self.run.log_artifact(artifact)

    def end(self, error: str | None) -> None:
        self.run.finish(exit_code=0 if error is None else 1)
