"""A training function of the user's own, on a Ray Train worker."""

from __future__ import annotations

import json
import shutil
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch

from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.errors import NodeFull
from s2l_ray.execution.nodes import disk_errors
from s2l_ray.models.files import ADAPTER_CONFIG, BASE_CONFIG, is_adapter, result_fault
from s2l_ray.store import Part
from s2l_ray.store.arrow_files import check_uploads
from s2l_ray.store.preflight import check_node
from s2l_ray.store.scratch import working_folder
from s2l_ray.training.checkpoints import checkpoint_name
from s2l_ray.training.own import OwnJob


def run(job: OwnJob) -> None:
    """Call the function. The first worker uploads the model that it leaves."""
    store = job.store
    check_node(store)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    with disk_errors(), working_folder() as output:
        config: dict[str, Any] = {
            "model": store.download(job.model),
            "tokenizer": store.download(job.tokenizer_folder),
            "output": output,
            "steps": job.steps,
            "seed": job.seed,
            "max_length": job.max_length,
            "training": job.config.model_dump(mode="json"),
        }
        if rank == 0:
            ray.get(job.reports.begin.remote(world))
        _call(job, config, world)
        check_uploads()
        if rank == 0:
            files = _upload(job, Path(output), config["model"])
            ray.get(job.reports.end.remote(files))


def _call(job: OwnJob, config: dict[str, Any], world: int) -> None:
    """Raise an error of the function as a ValueError with its trace.

    But an error that another worker's death may have caused stays as it is, so that training
    starts again.
    """
    try:
        with disk_errors():
            job.function(config)
    except NodeFull:
        raise
    except Exception as error:
        passing = isinstance(error, (RuntimeError, OSError))
        if world > 1 and passing and not isinstance(error, torch.OutOfMemoryError):
            raise
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # theirs alone
        trace = "".join(traceback.format_exception(error)).rstrip()
        raise ValueError(f"target.train: {job.config.train!r} failed:\n{trace}") from None


def _upload(job: OwnJob, output: Path, base: str) -> list[Part]:
    """Upload the files of the model in `output`, not its folders, as the target's checkpoint.

    base: local folder of the model that training started from.
    """
    if fault := result_fault(output):
        found = ", ".join(sorted(path.name for path in output.iterdir())) or "nothing"
        raise ValueError(
            f"target.train: {job.config.train!r} left no model in config['output'] on the first "
            f"worker: it {fault}; found {found}. Save one there, such as with "
            "model.save_pretrained(config['output'])"
        )
    if is_adapter(output):
        _name_base(job, output, base)
    if not (output / "tokenizer_config.json").exists():
        load_tokenizer(job.store, job.tokenizer_folder).save_pretrained(output)
    name = checkpoint_name(job.steps)
    job.store.remove(job.folder, name)  # what an interrupted run left there
    files = job.store.upload(output, job.folder, name)
    return [replace(part, unit=f"{name}/{part.unit}", file=f"{name}/{part.file}") for part in files]


def _name_base(job: OwnJob, adapter: Path, base: str) -> None:
    """Name the base of an adapter as the configuration does, not by its folder on this node."""
    model = job.config.model
    if model.name is None:
        raise ValueError(
            f"target.train: {job.config.train!r} left an adapter, but its base is not a pretrained "
            "model (target.model.name), and is not kept: merge the adapter into it first"
        )
    folder, file = Path(model.name), adapter / ADAPTER_CONFIG
    settings = json.loads(file.read_bytes())
    name = str(folder.absolute()) if folder.is_dir() else model.name
    settings |= {"base_model_name_or_path": name, "revision": model.revision}
    file.write_text(json.dumps(settings, indent=2))
    shutil.copy(Path(base, "config.json"), adapter / BASE_CONFIG)
