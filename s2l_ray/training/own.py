"""A target trained by the user's own training function for Ray Train (target.train).

The function runs on every worker, as Ray Train calls it. It gets a dict, Ray Train's dataset shards
`train` and `whole`, and Ray Train's newest checkpoint; docs/own-loop.md is the contract. What it
leaves in a folder becomes the checkpoint of a training stage like any other. What it reports with
ray.train.report shows its progress, and is where it goes on after a stop.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
import ray.data
from ray.data import ExecutionOptions
from ray.train import CheckpointConfig, DataConfig

from s2l_ray.config import TrainingConfig
from s2l_ray.execution.board import make_board, watch
from s2l_ray.execution.extensions import import_extension
from s2l_ray.execution.progress import Progress
from s2l_ray.formatting import plural
from s2l_ray.models.origin import commit_of, keep_model
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.arrow_files import arrow_files
from s2l_ray.store.views import TokensView
from s2l_ray.training.checkpoints import num_steps, write_initial
from s2l_ray.training.reports import Tell, make_reports, state_of
from s2l_ray.training.train import fit, run_workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnJob:
    """What every worker gets. model: folder of the model to start from, for Store.download.
    reports: an actor of training.reports."""

    store: Store
    function: Callable[[dict[str, Any]], None]
    config: TrainingConfig
    tokenizer_folder: str
    model: str
    folder: str
    max_length: int
    seed: int
    steps: int
    reports: Any


@cache  # a module is imported once, so its checksum must stay that of what was imported
def own_loop(name: str) -> tuple[Callable[[dict[str, Any]], None], str]:
    """Import module:function; return the function and the checksum of its module."""
    function, checksum = import_extension("target.train", name)
    try:
        inspect.signature(function).bind({})
    except TypeError:
        raise ValueError(
            f"target.train: {name!r}: expected a function of one argument (a dict), got "
            f"{function!r}"
        ) from None
    return function, checksum


def train_own(
    store: Store,
    examples: ray.data.Dataset,
    tokens: Manifest,
    config: TrainingConfig,
    *,
    tokenizer_folder: str,
    folder: str,
    fingerprint: str,
    seed: int,
    label: str,
) -> Manifest:
    """Train with config.train and return the stage's manifest (store.views.TrainingView).

    examples: of selection.dataset. ValueError if the function fails, or leaves no model.
    """
    assert config.train is not None
    function, _ = own_loop(config.train)
    view = TokensView(tokens)
    steps, origin = num_steps(config, view.trainable), keep_model(store, config.model)
    model = origin or f"{folder}/resume/initial"
    if origin is None and store.manifest(model) is None:
        ray.get(write_initial.remote(store, config, None, tokenizer_folder, seed, model))
    board = make_board()
    reports = make_reports(store, folder, board)
    job = OwnJob(
        store, function, config, tokenizer_folder, model, folder, view.max_length, seed, steps,
        reports,
    )  # fmt: skip

    place = (
        {"storage_path": store.address(folder, "resume")}
        if store.is_local
        else {"storage_path": f"{folder}/resume", "storage_filesystem": arrow_files(store)}
    )

    def once(label_selector: dict[str, str], size: int) -> None:
        store.guard()
        ordered = ExecutionOptions(preserve_order=True)
        run_workers(
            _work,
            {"job": job},
            config,
            label_selector,
            size,
            storage={
                **place,
                "checkpoint_config": CheckpointConfig(num_to_keep=1),
                "callbacks": [Tell(store, reports)],
            },
            datasets={"train": examples, "whole": examples},
            dataset_config=DataConfig(
                datasets_to_split=["train"], execution_options=ordered, enable_shard_locality=False
            ),
        )

    def reached() -> int:
        return state_of(store, folder)["step"] or 0

    note = f"starting {plural(config.workers.num_workers, 'worker')}"
    with (
        Progress(label, total=steps, unit="steps", note=note, done=reached()) as progress,
        watch(board, progress),
    ):
        fit(config, label, once, reached)
    state = ray.get(reports.read.remote())
    if state["files"] is None:
        store.guard()  # another run may have finished the stage meanwhile
        raise AssertionError(f"{folder}: training ended without a model")
    if (known := commit_of(store, origin)) is not None:
        state["model"] = known
    return _commit(store, folder, fingerprint, state, label, steps)


def _commit(
    store: Store, folder: str, fingerprint: str, state: dict[str, Any], label: str, steps: int
) -> Manifest:
    done = state["step"]
    if state["history"] and not math.isfinite(loss := state["history"][-1][1]):
        raise ValueError(
            f"{label}: target.train reported a training loss of {loss} at step {done}; lower "
            "target.learning_rate, or check the corpus for faulty examples"
        )
    if done is not None and done != steps:
        logger.warning(
            f"{label}: target.train ended after step {done:,}, but the settings ask for {steps:,}"
        )
    files = [Part.from_json(file) for file in state.pop("files")]
    info = state | {"step": steps if done is None else done, "checkpoints": [steps]}
    manifest = store.commit(folder, fingerprint, files, info)
    store.remove(folder, "resume")
    return manifest


def _work(settings: dict[str, OwnJob]) -> None:
    # Only workers import it: the driver and Ray Train's controller start without torch's models.
    from s2l_ray.training.own_worker import run

    run(settings["job"])
