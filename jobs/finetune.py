"""The target on the selected subset: python jobs/finetune.py CONFIG.yaml [key.path=value …]

The selection is the configuration's (selection.selector, selection.seed, …); what of it exists in
the run directory is used, what does not is made.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # see select.py

from s2l_ray import cli
from s2l_ray.config import RunConfig


def work(config: RunConfig) -> None:
    from s2l_ray.pipeline import targets
    from s2l_ray.pipeline.run import Run

    with Run.start(config) as run:
        target, _ = run.finish(targets.finetune_selected)
        print(f"model: {targets.model_path(run, target)}")


if __name__ == "__main__":
    cli.main("Fine-tune the target on the selected subset.", work, needs_target=True)
