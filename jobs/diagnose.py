"""Is the selection signal or noise? python jobs/diagnose.py CONFIG.yaml [key.path=value …]"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # see select.py

from s2l_ray import cli
from s2l_ray.config import RunConfig


def work(config: RunConfig) -> None:
    from s2l_ray.pipeline import diagnosis
    from s2l_ray.pipeline.run import Run
    from s2l_ray.report import diagnostics_page as page

    with Run.start(config) as run:
        record = run.finish(diagnosis.diagnose)
        print(page.as_text(record))
        print(f"report: {page.write(run, record)}")


if __name__ == "__main__":
    cli.main("Hold the S2L selection against variants of itself.", work)
