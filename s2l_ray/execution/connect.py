"""The driver's side of Ray: connect, quieten, and say what machine and versions a run had."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.data import DataContext

from s2l_ray.config import StorageConfig

logger = logging.getLogger(__name__)

# For every worker, before torch is loaded: threads that wait for one another spin for some 20 us
# and then sleep, since cores may be shared with other processes, and freed training buffers are
# kept instead of going back to the system at each step.
WORKER_ENVIRONMENT = {
    "GOMP_SPINCOUNT": "1000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "TOKENIZERS_PARALLELISM": "false",
}

# What Ray reads in the driver's process (the first of them a Ray that is started from there).
DRIVER_ENVIRONMENT = {
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # a worker that has torch keeps it
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end of a training is seen
    # The thread of Ray Data's usage statistics, at work while Ray shuts down, can end the process
    # with status 1.
    "RAY_DATA_USAGE_DISABLED": "1",
}

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's name, really: in the environment of a job
_started: list[str] = []  # nodes of the Rays that `connect` started


def connect(storage: StorageConfig | None = None) -> None:
    """Use the Ray that is there (RAY_ADDRESS, a job's cluster, the caller's), or start a local one.

    A program that runs on Ray already keeps its own settings.
    """
    if ray.is_initialized():
        return
    quiet()
    # Ray refuses a variable that the job's submission sets too: that one stands.
    job = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("runtime_env") or {}
    given = job.get("env_vars") or {}
    reach = storage.environment() if storage is not None else {}
    os.environ.update(reach)
    wanted = WORKER_ENVIRONMENT | reach
    ours = {name: value for name, value in wanted.items() if name not in given}
    runtime_env: dict[str, object] = {"env_vars": ours}
    local = False
    # Where `ray start` notes its address; a Ray that was killed leaves the note.
    started = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray/ray_current_cluster")
    if not in_job():
        runtime_env["py_modules"] = [str(Path(__file__).parents[1])]  # no job brings the code
        if "RAY_ADDRESS" in os.environ:
            _check_address("RAY_ADDRESS", os.environ["RAY_ADDRESS"])
        elif started.is_file():
            try:
                _check_address(str(started), started.read_text().strip())
            except ConnectionError as error:
                logger.warning(f"{error}: starting a Ray of this machine")
                local = True
        else:
            local = True
    for name, value in DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if local:
        with inherited(wanted):
            ray.init("local", log_to_driver=False, logging_level=logging.ERROR)
        _started.append(ray.get_runtime_context().get_node_id())
    else:
        ray.init(runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR)


@contextmanager
def inherited(variables: dict[str, str]) -> Iterator[None]:
    """For a Ray that is started here: its workers have these variables from it. As a runtime
    environment they would cost each worker half a second, and the first ones would not be used."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_address(where: str, address: str) -> None:
    """Ray would try an address that nothing answers at again and again, for minutes."""
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{where}: {address} is a dashboard, for `ray job submit`; wanted the head's "
            f"host:port, or no RAY_ADDRESS for a Ray of this machine"
        )
    known = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:(\d+)", address)
    if known is None:  # auto, local
        return
    try:
        socket.create_connection((known[1], int(known[2])), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"{where}: no Ray answers at {address}: {error}") from None


def own_ray() -> bool:
    """Whether Ray is one that this process started for itself: no node will come to it."""
    return ray.get_runtime_context().get_node_id() in _started


def in_job() -> bool:
    """Whether this is the driver of a submitted Ray job."""
    return JOB_CONFIG in os.environ


def job_id() -> str:
    """Of the submitted job, or of this driver in its cluster."""
    return os.environ.get("RAY_JOB_SUBMISSION_ID") or ray.get_runtime_context().get_job_id()


def quiet() -> None:
    """Leave the terminal to the stages' own progress; Ray's logs are in its session folder."""
    DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
