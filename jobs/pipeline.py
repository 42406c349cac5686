"""The whole line, with the comparison: python jobs/pipeline.py CONFIG.yaml [key.path=value …]"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # see select.py

from s2l_ray import cli
from s2l_ray.config import RunConfig


def work(config: RunConfig) -> None:
    from s2l_ray.pipeline import subset as pipeline
    from s2l_ray.pipeline import targets
    from s2l_ray.report import gather
    from s2l_ray.report.verdict import other_measures, verdict

    def everything(run: pipeline.Run) -> str:
        pipeline.prepare(run)
        targets.prepare_evaluation(run)
        selection = pipeline.select(None, config, run=run)
        arms = targets.compare_baselines(run)
        page = gather.write(run, selection, arms)
        shown = gather.arms_of(arms)
        said = [verdict(shown, main=config.selection.selector), *other_measures(shown)]
        return "\n".join([*said, f"selection: {selection.path}", f"report: {page}"])

    with pipeline.Run.start(config) as run:
        print(run.finish(everything))


if __name__ == "__main__":
    cli.main(
        "Select, fine-tune, compare with the baselines, report.",
        work,
        needs_target=True,
        needs_heldout=True,
    )
