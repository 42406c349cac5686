"""Corpus to subset and report: python jobs/select.py CONFIG.yaml [key.path=value …]"""

import sys
from pathlib import Path

# The folder of this file holds a select.py that would hide the standard library's.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from s2l_ray import cli
from s2l_ray.config import RunConfig


def work(config: RunConfig) -> None:
    from s2l_ray.pipeline import subset as pipeline
    from s2l_ray.report import gather

    def select(run: pipeline.Run) -> str:
        selection = pipeline.select(None, config, run=run)
        page = gather.write(run, selection)
        return f"selection: {selection.path}\nreport: {page}"

    with pipeline.Run.start(config) as run:
        print(run.finish(select))


if __name__ == "__main__":
    cli.main("Select the part of a corpus that is worth training on.", work)
