"""Fine-tuning on Ray Train, for proxy and target: the driver's side. loop.py is the workers' side.

A training stage leaves folders `checkpoint-000500/` in Hugging Face format and a manifest of their
files. While unfinished it has `resume/step-000500/`, from which a restart continues. The manifest
of the last one stays.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.util import placement_group_table

from s2l_ray.config import TrainingConfig
from s2l_ray.errors import Damaged, NodeFull
from s2l_ray.execution import deadline
from s2l_ray.execution.board import give_back, make_board, watch
from s2l_ray.execution.nodes import away_from, check_room, disk_errors, release, room_for
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.remote import fixable, get
from s2l_ray.formatting import plural
from s2l_ray.models.origin import commit_of, keep_model
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.store import DROPPED
from s2l_ray.store.views import TokensView
from s2l_ray.training.alone import is_alone, run_alone
from s2l_ray.training.checkpoints import num_steps, remove_checkpoints
from s2l_ray.training.job import SAVE_SECONDS, TrainingJob
from s2l_ray.training.resume import TrainingState, last_resume_point, resume_points

logger = logging.getLogger(__name__)

# The last two: the controller's process has died, or its node ran out of memory.
FAILURES = (ray.train.WorkerGroupError, ray.train.ControllerError, RayActorError, OutOfMemoryError)
WAIT_MINUTES = 5  # for room for all workers, if fewer may do; Ray Train asks once a minute

# For a worker with several CPUs of its own: its threads spin while they wait for one another, which
# is libgomp's default. execution.connect.WORKER_ENVIRONMENT is for shared CPUs.
_OWN_CPUS = {"GOMP_SPINCOUNT": "300000"}


def train(
    store: Store,
    tokens: Manifest,
    config: TrainingConfig,
    *,
    tokenizer_folder: str,
    folder: str,
    fingerprint: str,
    seed: int,
    label: str = "train",
    keep: int | None = None,
    board: Any = None,
) -> Manifest:
    """Fine-tune on the tokens and return the stage's manifest (store.views.TrainingView).

    Continues from the newest resume point of an earlier, unfinished run. keep: number of last
    checkpoints to leave; None: all. board: from execution.board.make_board, for others to read the
    progress. ValueError if a user can fix what is wrong; otherwise Ray Train's TrainingFailedError.
    """
    steps = num_steps(config, TokensView(tokens).trainable)
    own_board = None if board else make_board()
    board = board or own_board
    origin = keep_model(store, config.model)
    job = TrainingJob(
        store, tokens, config, tokenizer_folder, origin, folder, fingerprint, seed, steps, board,
        keep=keep,
    )  # fmt: skip

    def once(label_selector: dict[str, str], size: int) -> None:
        limited = {"job": replace(job, seconds=deadline.seconds_left())}
        if is_alone(config, size):
            with plain_failures():
                run_alone(_work, limited, config.workers.cpus_per_worker, environment(config))
        else:
            run_workers(_work, limited, config, label_selector, size)

    point, state = last_resume_point(store, folder)
    if state.step == steps:  # it was finished before: its manifest or a file is damaged
        try:
            get(_verify.remote(store, folder, state.files))
        except Damaged as damage:
            logger.warning(f"{damage}; training begins again")
            store.guard()
            store.remove(folder, "resume")
            store.remove(folder, DROPPED)
            point, state = "", TrainingState()
    if (reached := state.step) < steps:
        note = f"starting {plural(config.workers.num_workers, 'worker')}"
        with (
            Progress(label, total=steps, unit="steps", note=note, done=reached) as progress,
            watch(board, progress),
        ):
            fit(
                config,
                label,
                once,
                lambda: last_resume_point(store, folder)[1].step,
            )
    point, state = last_resume_point(store, folder)
    if state.step != steps:
        deadline.check()
        last = [name for name in resume_points(store, folder) if int(name.split("-")[1]) == steps]
        if any(store.exists(folder, "resume", name, "manifest.json") for name in last):
            raise ValueError(
                f"{store.address(folder)}: the resume point of the last step, {steps:,}, is not "
                f"complete; start again to continue from step {state.step:,}"
            )
        store.guard()  # another run may have finished the stage meanwhile
        raise AssertionError(f"{folder}: training ended at step {state.step:,} of {steps:,}")
    info = state.as_info()
    del info["files"], info["weights"]
    if (known := commit_of(store, origin)) is not None:
        info["model"] = known
    manifest = store.commit(folder, fingerprint, state.files, info)
    # The manifest of the last resume point lists the same files: the stage's can be made from it.
    for name in resume_points(store, folder):
        if name != point:
            store.remove(folder, "resume", name)
    if keep is not None:
        remove_checkpoints(store, folder, state.checkpoints)
    if own_board is not None:
        give_back(own_board)
    return manifest


@ray.remote(num_cpus=1)
def _verify(store: Store, folder: str, files: list[Part]) -> None:
    """Raise Damaged if a file of a training's checkpoints is not as listed."""
    checkpoints, dropped = dict[str, dict[str, Part]](), store.dropped(folder)
    for part in files:
        name, _, file = part.file.rpartition("/")
        if part.file not in dropped:
            checkpoints.setdefault(name, {})[file] = part
    for name, listed in checkpoints.items():
        local = store.download(folder, name, files=listed, stage=folder)
        store.discard(local)


def fit(
    config: TrainingConfig,
    label: str,
    once: Callable[[dict[str, str], int], None],
    reached: Callable[[], int],
) -> None:
    """Train to the end: call `once` with a label selector and a number of workers, and again if
    workers die.

    reached: the step of the newest resume point.
    """
    full, deaths, step_before = dict[str, NodeFull](), 0, -1
    before = set(placement_group_table())
    size = config.workers.num_workers
    while True:
        elsewhere = away_from(full, config.workers)
        check_room(f"{label}: workers", config.workers, size, full)
        try:
            return once(elsewhere, size)
        except NodeFull as error:
            full[error.node] = error
            logger.info(f"{label}: {error}; training continues without this node")
        except FAILURES as error:
            if config.min_workers is not None and _found_no_room(error):
                size = _next_size(config, size, room_for(config.workers, full))
                logger.info(
                    f"{label}: no room for {config.workers.num_workers:,} workers for "
                    f"{WAIT_MINUTES} minutes; training continues with {size:,}"
                )
                continue
            size = config.workers.num_workers  # nodes may have come back
            step = reached()
            deaths, step_before = deaths + 1 if step == step_before else 1, step
            if deaths > config.max_failures >= 0:
                raise
            if isinstance(error, ray.train.WorkerGroupError):
                who, why = "a worker", next(iter(error.worker_failures.values()))
            else:
                who, why = "Ray Train's controller", getattr(error, "controller_failure", error)
            why = str(why).partition("\n")[0]
            logger.info(f"{label}: {who} failed ({why}); training continues from step {step:,}")
            release(before)


def _found_no_room(error: Exception) -> bool:
    failure = getattr(error, "controller_failure", None)
    return isinstance(failure, WorkerGroupStartupTimeoutError)


def _next_size(config: TrainingConfig, size: int, room: int) -> int:
    """Return the largest number of workers below `size`, which there was no room for, that `room`
    is enough for. If there is none, return the full number, to wait for it again."""
    fitting = (each for each in config.sizes() if each <= room and each < size)
    return next(fitting, config.workers.num_workers)


class _Trainer(TorchTrainer):
    """Ray Train without its handler of Ctrl-C, which ends the process with status 1.

    `fit` raises KeyboardInterrupt instead, like any other call that waits.
    """

    controller: Any = None  # Ray Train's, if it is run by the main thread

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller

    def abort(self) -> None:
        """Stop the workers. Ray ends them when Ray Train's controller has died.

        The controller's own way to abort may take as long as the training.
        """
        if self.controller is not None:
            ray.kill(self.controller)


def run_workers(
    work: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    config: TrainingConfig,
    label_selector: dict[str, str],
    size: int,
    *,
    storage: dict[str, Any] | None = None,
    **given: Any,
) -> None:
    """Run Ray Train once: `work(settings)` on each of `size` workers. A worker's error that a user
    can fix is raised as it was.

    storage: fields of RunConfig, to keep what workers report. given: more for TorchTrainer.
    """
    workers = config.workers
    # Ray Train grows and shrinks a training by itself, to any number of workers.
    elastic = (config.min_workers or size, config.max_workers) if config.max_workers else None
    patience = -1 if elastic or config.min_workers is None else WAIT_MINUTES - 1
    # Otherwise Ray Train starts each worker in a folder of its own, and relative paths break.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    scratch = tempfile.mkdtemp(prefix="s2l_ray-train-")  # Ray Train requires a storage path
    trainer = _Trainer(
        work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=elastic or size,
            use_gpu=workers.gpus_per_worker > 0,
            resources_per_worker={"CPU": workers.cpus_per_worker}
            | ({"GPU": workers.gpus_per_worker} if workers.gpus_per_worker else {}),
            accelerator_type=workers.accelerator_type,
            label_selector=label_selector or None,
        ),
        torch_config=TorchConfig(timeout_s=SAVE_SECONDS),
        run_config=RunConfig(
            name="ray_train",
            failure_config=FailureConfig(controller_failure_limit=patience),
            worker_runtime_env={"env_vars": env} if (env := environment(config)) else None,
            **(storage or {"storage_path": scratch}),
        ),
        **given,
    )
    try:
        with plain_failures():
            trainer.fit()
    except KeyboardInterrupt:
        trainer.abort()
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def plain_failures() -> Iterator[None]:
    """In the block, replace a WorkerGroupError by the error inside it, if a user can fix that."""
    try:
        yield
    except ray.train.WorkerGroupError as error:
        if found := fixable(error):
            raise found from None
        raise


def environment(config: TrainingConfig) -> dict[str, str]:
    """Return the environment variables of a training's workers, beside those of all workers."""
    return _OWN_CPUS if config.workers.cpus_per_worker > 1 else {}


def _work(settings: dict[str, TrainingJob]) -> None:
    # Only workers import it: the driver and Ray Train's controller start without models.
    from s2l_ray.training.loop import run

    with disk_errors():
        run(settings["job"])
