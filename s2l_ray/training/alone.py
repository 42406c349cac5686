"""A training of one worker on a Ray of this process's own: the same loop in one Ray task, by Ray
Train's local mode.

Ray Train starts a controller and a worker of its own for each training, and both import torch. A
task runs in a worker process that Ray keeps, so the next training finds torch imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions
import ray.train
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from s2l_ray.config import TrainingConfig
from s2l_ray.execution.connect import own_ray

Work = Callable[[dict[str, Any]], None]


def is_alone(config: TrainingConfig, size: int) -> bool:
    """Return whether a task does the training: on a Ray that this process started."""
    return config.fits_a_task(size) and own_ray()


def run_alone(work: Work, settings: dict[str, Any], cpus: float, env: dict[str, str]) -> None:
    """Run `work(settings)` in a task. Errors as Ray Train raises them: WorkerGroupError.

    env: environment variables of the task's process; with any, Ray starts one for it.
    """
    # A placement group, as Ray Train takes one: scoring makes room when it waits for its place.
    place = placement_group([{"CPU": cpus}])
    task = None
    try:
        task = _work_alone.options(
            num_cpus=cpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(place),
            runtime_env={"env_vars": env} if env else None,
        ).remote(work, settings)
        ray.get(task)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        found = cause if isinstance(cause, Exception) else error
        raise ray.train.WorkerGroupError(str(error), {0: found}) from error
    except KeyboardInterrupt:
        if task is not None:
            ray.cancel(task, force=True)
        raise
    finally:
        remove_placement_group(place)


@ray.remote(max_retries=0)
def _work_alone(work: Work, settings: dict[str, Any]) -> None:
    local_mode = ScalingConfig(num_workers=0)
    TorchTrainer(work, train_loop_config=settings, scaling_config=local_mode).fit()
