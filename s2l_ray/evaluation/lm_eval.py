"""Run lm-evaluation-harness on a fine-tuned model, in a Ray task with the evaluation's resources.

The harness runs as a command of its own, since it sets seeds, threads and loggers of its process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.execution.connect import connect
from s2l_ray.execution.nodes import resources_of
from s2l_ray.execution.remote import get
from s2l_ray.models.files import base_of, is_adapter
from s2l_ray.store import Store

Results = dict[str, dict[str, Any]]  # task -> metric -> value


def check_lm_eval() -> None:
    """Raise ValueError if the harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("--lm-eval: lm-eval is not installed; install the extra 'lm-eval'")


def lm_eval(store: Store, model: str, tasks: str, config: TrajectoriesConfig) -> Results:
    """Return the harness's results by task and metric.

    model: a folder in Hugging Face format, below the run directory. tasks: names or YAML files,
    separated by commas. Files must be on every node. config: of the scoring of targets; its
    workers' resources, dtype and gpus_per_worker are used. ValueError with the harness's own words
    if it fails.
    """
    connect()
    task = ray.remote(_run).options(**resources_of(config.workers))
    return get(task.remote(store, model, tasks, config))


def _run(store: Store, model: str, tasks: str, config: TrajectoriesConfig) -> Results:
    local = store.download(model)
    given = {"pretrained": local, "dtype": config.dtype or "auto"}
    if is_adapter(local):
        base = base_of(local)
        given |= {"pretrained": str(base.name), "peft": local}
        given |= {"revision": base.revision} if base.revision else {}
    if config.workers.gpus_per_worker > 1:
        given["parallelize"] = "True"
    arguments = ",".join(f"{name}={value}" for name, value in given.items())
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", arguments,
            "--tasks", tasks, "--batch_size", "8", "--output_path", folder,
            "--device", "cuda" if config.workers.gpus_per_worker else "cpu",
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        files = sorted(Path(folder).rglob("results_*.json"))
        if ended.returncode or not files:
            said = [line for line in ended.stderr.splitlines() if line.strip()] or ["nothing"]
            raise ValueError(f"--lm-eval {tasks}: the harness failed: {said[-1].strip()}")
        found = json.loads(files[-1].read_text())["results"]
    return {
        task: {
            metric.removesuffix(",none"): value
            for metric, value in metrics.items()
            if isinstance(value, int | float) and metric != "sample_len"
        }
        for task, metrics in found.items()
    }
