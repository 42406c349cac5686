"""Connect the driver to Ray."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import ray
from ray._private import parameter, ray_constants, services
from ray.experimental.internal_kv import _internal_kv_put

from s2l_ray.config import StorageConfig
from s2l_ray.execution.job import JOB_CONFIG, in_job
from s2l_ray.execution.ray_messages import log_instead

logger = logging.getLogger(__name__)

# Set in every worker before torch is loaded. Threads that wait for each other spin for about 20 us
# and then sleep, because other processes may share their cores. Freed training buffers are kept
# instead of being returned to the system at each step.
WORKER_ENVIRONMENT = {
    "GOMP_SPINCOUNT": "1000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "TOKENIZERS_PARALLELISM": "false",
}

# Of a Ray that only this process uses: nobody reads its metrics, nor what its processes use.
LOCAL_ENVIRONMENT = {
    "RAY_enable_metrics_collection": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "86400000",
}

# What Ray reads in the driver's process. The first is read by a Ray that is started from there.
DRIVER_ENVIRONMENT = {
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # keep workers that have loaded torch
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # notice the end of a training sooner
    # If Ray shuts down while the usage statistics of Ray Data are sent, their thread can end the
    # process with status 1.
    "RAY_DATA_USAGE_DISABLED": "1",
    # If several tasks fail, the first error is raised. Ray would print the traces of the others.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}

_started: list[str] = []  # ids of the nodes of local Rays that `connect` started
_lock = threading.RLock()  # threads may train targets
_expected: list[StorageConfig] = []  # at most one: the settings of the run that may connect
_waiting: list[Callable[[], None]] = []  # see when_connected


def connect(storage: StorageConfig | None = None) -> None:
    """Connect to a running Ray (RAY_ADDRESS, a job's cluster, `ray start`), or start a local one.

    Does nothing if the program has connected already; its settings stay. storage: by default that
    of `expect`.
    """
    with _lock:
        if not ray.is_initialized():
            _connect(storage or next(iter(_expected), None))
        while _waiting:
            _waiting.pop(0)()


def expect(storage: StorageConfig) -> None:
    """Set the settings with which `connect` connects once something needs Ray, or never."""
    forget()
    _expected.append(storage)


def connect_as_expected() -> None:
    """Connect if a run has called `expect`: not for one that is put together by hand."""
    if _expected:
        connect()


def forget() -> None:
    """Drop what `expect` has set and what waits for a connection."""
    _expected.clear()
    _waiting.clear()


def when_connected(check: Callable[[], None]) -> None:
    """Call a check that needs the cluster: now, or as soon as something else needs it.

    So a run that finds all that it wants starts no Ray, and any other run makes nothing before its
    checks.
    """
    if ray.is_initialized():
        check()
    else:
        _waiting.append(check)


def _connect(storage: StorageConfig | None) -> None:
    quiet()
    # Ray refuses a variable that the job's submission also sets. The submission's value stays.
    job = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("runtime_env") or {}
    given = job.get("env_vars") or {}
    access = storage.environment() if storage is not None else {}
    os.environ.update(access)
    variables = WORKER_ENVIRONMENT | access
    ours = {name: value for name, value in variables.items() if name not in given}
    runtime_env: dict[str, object] = {"env_vars": ours}
    address = None  # Ray's own choice
    if not in_job():
        runtime_env["py_modules"] = [str(Path(__file__).parents[1])]  # a job ships the code itself
        address = _address(os.environ.get("RAY_ADDRESS"))
    for name, value in DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _own_sigterm():
        if address == "local":
            logger.info("starting Ray on this machine")
            # Nothing takes away the only node.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            with inherited(variables | LOCAL_ENVIRONMENT), on_loopback(), with_few_processes():
                ray.init("local", log_to_driver=False, logging_level=logging.ERROR)
            # The agent would ask for the dashboard's address each second, and log that there is
            # none.
            _internal_kv_put(
                ray_constants.DASHBOARD_ADDRESS, "127.0.0.1:0", True,
                namespace=ray_constants.KV_NAMESPACE_DASHBOARD,
            )  # fmt: skip
            _started.append(ray.get_runtime_context().get_node_id())
        else:
            ray.init(
                address, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR
            )


def _address(wanted: str | None) -> str | None:
    """Return where Ray is: host:port, "local" to start one, or None to let Ray look for one.

    wanted: RAY_ADDRESS. ConnectionError if nothing answers there.
    """
    if wanted == "auto":
        return _started_here()
    if wanted:
        _check_address("RAY_ADDRESS", wanted)
        return wanted
    try:
        return _started_here() or "local"
    except ConnectionError as error:
        logger.warning(f"{error}; starting a local Ray")
        return "local"


def _started_here() -> str | None:
    """Return the address of a Ray that `ray start` has started on this machine, if there is one.

    ConnectionError if nothing answers there, or if another user has written it: code and data would
    go to whoever listens.
    """
    # If Ray is killed the file stays.
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray/ray_current_cluster")
    plain = os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe without a writer is empty, and not waited for
    try:
        with open(note, opener=lambda path, flags: os.open(path, flags | plain)) as file:
            about, address = os.fstat(file.fileno()), file.read(1000).strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # a link, or bytes that are no text
        raise ConnectionError(f"{note}: cannot be read: {error}") from None
    if about.st_uid not in (0, os.getuid()) or about.st_mode & 0o002:
        raise ConnectionError(
            f"{note}: expected a file that only the user {os.getuid()} or root can write, got "
            f"{stat.filemode(about.st_mode)} of the user {about.st_uid}; to join that Ray, set "
            "RAY_ADDRESS to its host:port"
        )
    _check_address(str(note), address)
    return address


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts in the block listen on 127.0.0.1 only.

    Ray does so itself on systems where it supports no cluster. It replaces 127.0.0.1 as
    `_node_ip_address` by an address that other machines reach.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def with_few_processes() -> Iterator[None]:
    """Let a Ray that starts in the block do without dashboard, log monitor and autoscaler.

    `ray.init` has no argument for it. These processes take 3 CPU seconds to start and delay the
    first task by 2 s. The raylet's two agents stay: it ends if one of them is missing.
    """
    params, start = parameter.RayParams, services.start_api_server
    parameter.RayParams = partial(params, include_log_monitor=False, no_monitor=True)
    services.start_api_server = lambda *_, **__: (None, None)  # its address, and the process
    try:
        yield
    finally:
        parameter.RayParams, services.start_api_server = params, start


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, if it has one, while the block starts Ray.

    Ray installs one that ends the process with status 1.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:  # from Ray's handler: the signal came while Ray was starting
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def inherited(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables while the block starts a local Ray, whose workers inherit them.

    As a Ray runtime environment they would cost half a second per worker, and the workers that Ray
    starts in advance would stay unused.
    """
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
    """Raise ConnectionError at once if nothing answers. Ray itself would retry for minutes."""
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{where}: {address} is a dashboard's address, for `ray job submit`; expected the "
            f"head's host:port; unset RAY_ADDRESS to start a local Ray"
        )
    known = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:(\d+)", address)
    if known is None:  # "local"
        return
    try:
        socket.create_connection((known[1], int(known[2])), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"{where}: no Ray answers at {address}: {error}") from None


def own_ray() -> bool:
    """Return whether this process started Ray for itself. No node will join it."""
    return ray.get_runtime_context().get_node_id() in _started


def starts_ray() -> bool:
    """Return whether `connect` would start a Ray of its own."""
    try:
        return not in_job() and _address(os.environ.get("RAY_ADDRESS")) == "local"
    except OSError:  # it would say that nothing answers
        return False


def job_id() -> str:
    """Return the id of the submitted job, or else that of this driver; "" before it connects."""
    submitted = os.environ.get("RAY_JOB_SUBMISSION_ID")
    return submitted or (ray.get_runtime_context().get_job_id() if ray.is_initialized() else "")


def quiet() -> None:
    """Turn off Ray's output on the terminal. Ray's logs are in its session folder."""
    log_instead()
    from ray.data import DataContext  # takes half a second, which workers do without

    DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray Data logs the error of a task with several traces before it raises it. The error that it
    # raises says the same, and the caller decides how much of it to show.
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ == "PlainRayHandler":  # not the one that writes Ray's log file
            handler.setLevel(logging.CRITICAL)
