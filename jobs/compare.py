"""Selectors over budgets and seeds: python jobs/compare.py CONFIG.yaml [key.path=value …]"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # see select.py

from s2l_ray import cli
from s2l_ray.config import RunConfig


def work(config: RunConfig) -> None:
    from s2l_ray.pipeline import comparison
    from s2l_ray.pipeline import subset as pipeline
    from s2l_ray.report import comparison_page, comparison_text

    with pipeline.Run.start(config) as run:
        print(comparison_text.plan(config, comparison.num_targets(config), comparison.known(run)))
        records = run.finish(lambda run: comparison.compare(run, comparison_text.say_so_far))
        print(comparison_text.as_text(records))
        print(f"report: {comparison_page.write(run, records)}")


if __name__ == "__main__":
    cli.main(
        "Compare selectors: targets on their subsets, over budgets and seeds.",
        work,
        needs_target=True,
        needs_heldout=True,
    )
