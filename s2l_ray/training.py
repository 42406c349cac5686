"""One fine-tuning loop on Ray Train, for proxy and target: DDP, or DeepSpeed ZeRO by config.

What a training stage leaves in its folder: `checkpoint-000500/` in Hugging Face format, a manifest
that lists their files, and while unfinished `resume/step-000500/`, from which a restart goes on.
Here is the driver's side; loop.py is the workers'.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import tempfile
import threading
from contextlib import suppress
from typing import Any

import ray
import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import placement_group_table

from s2l_ray.config import ModelConfig, TrainingConfig
from s2l_ray.driver import say
from s2l_ray.nodes import NodeFull, besides, check_room, own_disk, release
from s2l_ray.progress import Progress, make_board, watch
from s2l_ray.scratch import working_folder
from s2l_ray.store import Damaged, Manifest, Part, Store, mark_of
from s2l_ray.units import KNOWN

SAVE_SECONDS = 2 * 3600  # that workers wait for one another: for one that writes a large model
# The threads of a worker that has several CPUs to itself wait for one another as libgomp has it by
# itself, spinning; driver.WORKER_ENVIRONMENT is for CPUs that are shared.
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
    board: Any = None,
) -> Manifest:
    """Fine-tune on the tokens and return the stage's manifest.

    info: step (the last), workers, checkpoints (their steps), history [[step, loss], …], tokens,
    padded_tokens, seconds, waiting (those of them spent waiting for batches). Goes on from the last
    resume point of an earlier, unfinished run. board: a progress.make_board() for others to read.
    ValueError for what a user can mend; Ray Train's TrainingFailedError for the rest.
    """
    rows = [part.stats["trainable"] for part in tokens.parts]
    steps = num_steps(config, sum(rows))
    board = board or make_board()
    job = {
        "store": store, "tokens": tokens, "config": config, "tokenizer_folder": tokenizer_folder,
        "folder": folder, "fingerprint": fingerprint, "seed": seed, "steps": steps, "board": board,
    }  # fmt: skip
    with Progress(label, total=steps, unit="steps") as progress, watch(board, progress):
        _fit(job, label)
    _, state = last_resume_point(store, folder)
    if state["step"] != steps:
        last = [name for name in resume_points(store, folder) if int(name.split("-")[1]) == steps]
        if any(store.exists(folder, "resume", name, "manifest.json") for name in last):
            raise ValueError(
                f"{store.address(folder)}: the resume point of the last step, {steps:,}, is not "
                f"whole; started again, the training goes on from step {state['step']:,}"
            )
        store.guard()  # another run may have finished it meanwhile
        raise KeyboardInterrupt  # Ray Train ends a training so at the user's Ctrl-C
    files = [Part(**file) for file in state.pop("files")]
    manifest = store.commit(folder, fingerprint, files, state)
    store.remove(folder, "resume")
    return manifest


def _fit(job: dict[str, Any], label: str) -> None:
    """Train to the end: where workers die, again from the last resume point on."""
    config: TrainingConfig = job["config"]
    full, deaths, reached = dict[str, NodeFull](), 0, -1
    before = set(placement_group_table())
    while True:
        elsewhere = besides(full, config.workers)
        check_room(f"{label}: workers", config.workers, config.workers.num_workers, full)
        try:
            return _fit_once(job, elsewhere)
        except NodeFull as error:
            full[error.node] = error
            say(f"{label}: {error}; training goes on without this node")
        except (ray.train.WorkerGroupError, ray.train.ControllerError) as error:
            step = last_resume_point(job["store"], job["folder"])[1]["step"]
            deaths, reached = deaths + 1 if step == reached else 1, step
            if deaths > config.max_failures >= 0:
                raise
            if isinstance(error, ray.train.WorkerGroupError):
                who, why = "a worker", next(iter(error.worker_failures.values()))
            else:
                who, why = "Ray Train's controller", error.controller_failure
            why = str(why).partition("\n")[0]
            say(f"{label}: {who} failed ({why}); going on from step {step:,}")
            release(before)


def _fit_once(job: dict[str, Any], label_selector: dict[str, str]) -> None:
    """TorchTrainer.fit(); an error of KNOWN, or NodeFull, of a worker arrives as what it was."""
    config: TrainingConfig = job["config"]
    workers = config.workers
    # Ray Train would have each worker in a folder of its own, where relative paths lead nowhere.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # Ray Train wants a place to write to. What a run keeps goes to the store, in our own way.
    scratch = tempfile.mkdtemp(prefix="s2l_ray-train-")
    trainer = TorchTrainer(
        _work,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=(workers.num_workers, config.max_workers)
            if config.max_workers
            else workers.num_workers,
            use_gpu=workers.gpus_per_worker > 0,
            resources_per_worker={"CPU": workers.cpus_per_worker}
            | ({"GPU": workers.gpus_per_worker} if workers.gpus_per_worker else {}),
            accelerator_type=workers.accelerator_type,
            label_selector=label_selector or None,
        ),
        torch_config=TorchConfig(timeout_s=SAVE_SECONDS),
        run_config=RunConfig(
            name="ray_train",
            storage_path=scratch,
            worker_runtime_env={"env_vars": _OWN_CPUS} if workers.cpus_per_worker > 1 else None,
        ),
    )
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        failures = [failure for _, failure in sorted(error.worker_failures.items())]
        for failure in failures:
            if isinstance(failure, (Damaged, NodeFull)):
                raise type(failure)(*failure.args) from error
            if type(failure) in KNOWN:
                raise type(failure)(str(failure)) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Ray Train leaves its own there


def num_steps(config: TrainingConfig, num_examples: int) -> int:
    return config.max_steps or math.ceil(config.epochs * num_examples / config.global_batch_size)


def checkpoint_steps(config: TrainingConfig, steps: int) -> list[int]:
    """The steps after which a checkpoint is kept; the last step always is."""
    if config.checkpoint_every is not None:
        return sorted({*range(config.checkpoint_every, steps, config.checkpoint_every), steps})
    count = config.num_checkpoints or 1
    return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step:06d}"


def checkpoints_of(training: Manifest) -> dict[int, str]:
    """step -> folder, of a training stage."""
    return {
        step: f"{training.folder}/{checkpoint_name(step)}" for step in training.info["checkpoints"]
    }


def marks_of_checkpoints(training: Manifest) -> dict[int, str]:
    """step -> mark of the files, of a training stage."""
    files: dict[int, dict[str, str]] = {step: {} for step in training.info["checkpoints"]}
    for step, checksums in files.items():
        for part in training.parts:
            folder, _, name = part.file.rpartition("/")
            if folder == checkpoint_name(step):
                checksums[name] = part.checksum
    return {step: mark_of(checksums) for step, checksums in files.items()}


@ray.remote(num_cpus=1)
def write_initial(
    store: Store, config: ModelConfig, tokenizer_folder: str, seed: int, folder: str
) -> None:
    """The model as a training starts from it, as a checkpoint in `folder`."""
    from s2l_ray.models import initial_model
    from s2l_ray.tokenization import load_tokenizer

    with working_folder() as local:
        tokenizer = load_tokenizer(store, tokenizer_folder)
        initial_model(config, tokenizer, seed=seed).save_pretrained(local)
        store.upload(local, folder)


def _work(job: dict[str, Any]) -> None:
    # Imported by the workers alone: the driver and Ray Train's controller start without models.
    from s2l_ray.loop import run

    with own_disk():
        run(job)


def resume_name(step: int, epoch: int | None) -> str:
    """Of a resume point. Two owners of a run, an old one unaware of the new, never share one."""
    return f"step-{step:06d}" + (f"-lease-{epoch}" if epoch else "")


def resume_points(store: Store, folder: str) -> list[str]:
    """Names of the resume points of a training, the newest first, whole or not."""
    found = []
    for name in store.names(folder, "resume"):
        if match := re.fullmatch(r"step-(\d+)(?:-lease-(\d+))?", name):
            found.append((int(match[1]), int(match[2] or 0), name))
    return [name for _, _, name in sorted(found, reverse=True)]


def resume_point(store: Store, folder: str, name: str) -> tuple[Manifest | None, str | None]:
    """Its manifest, if it has one that can be read, and what is wrong with it or its files."""
    try:
        manifest = store.manifest(f"{folder}/resume/{name}")
        return manifest, store.fault(manifest) if manifest else None
    except ValueError as error:
        return None, str(error)


def checkpoints_so_far(store: Store, folder: str) -> list[int]:
    """Steps of the checkpoints that an unfinished training has kept, also while it runs."""
    for name in resume_points(store, folder):
        with suppress(OSError, ValueError):  # of one that is removed just now
            if manifest := store.manifest(f"{folder}/resume/{name}"):
                return manifest.info["checkpoints"]
    return []


def last_resume_point(store: Store, folder: str) -> tuple[str, dict[str, Any]]:
    """Name of the newest whole resume point ("" if there is none), and the training up to there.

    Each has a manifest of its own. One that is not whole is named and passed over.
    """
    for name in resume_points(store, folder):
        manifest, fault = resume_point(store, folder, name)
        if fault:
            say(f"{fault}; training goes on from an earlier step")
        elif manifest:
            return name, manifest.info
    return "", {
        "step": 0, "workers": None, "seconds": 0.0, "waiting": 0.0, "tokens": 0,
        "padded_tokens": 0, "history": [], "checkpoints": [], "files": [],
    }  # fmt: skip
