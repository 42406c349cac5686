"""One local Ray for all tests that need it; small artifacts made as the stages make them."""

import logging
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

import boto3
import pytest
import ray
import slices
import soak
import torch
from support.ceph import PACKAGES, Ceph
from support.golden import compare
from support.runs import corpus, settings

import s2l_ray
from s2l_ray.execution import connect as driver
from s2l_ray.store import Store

TESTS = Path(__file__).resolve().parent
# Ray's workers and the commands in processes of their own import test modules and support too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [
        str(TESTS.parent),
        str(TESTS),
        *sorted(str(folder) for folder in TESTS.iterdir() if folder.is_dir()),
    ]
)


@pytest.fixture(scope="session", autouse=True)
def driver_environment():
    """This process has what a run's driver has."""
    for name, value in driver.DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models of tests are small: with more threads, torch spends its time waiting for them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def local_ray():
    """A real Ray on this machine, with the environment that a run gives its workers."""
    driver.quiet()
    with driver.inherited(driver.WORKER_ENVIRONMENT):
        ray.init(
            "local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    yield
    ray.shutdown()


@pytest.fixture
def said(caplog):
    """What the package has logged since the last call, a line a message."""
    caplog.set_level(logging.INFO, logger="s2l_ray")

    def lines():
        text = "".join(f"{record.getMessage()}\n" for record in caplog.records)
        caplog.clear()
        return text

    return lines


@pytest.fixture(scope="module")
def tmp_ray():
    """A folder of our own for Ray's sessions: another Ray of this machine is not met. Short, since
    sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="s2l", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ceph(tmp_path_factory):
    """A real S3 on this machine. Where its packages are not installed its tests are skipped, and
    listed; in CI they fail."""
    if not shutil.which("radosgw") and not os.environ.get("CI"):
        pytest.skip(f"needs a real S3: apt-get install {PACKAGES}")
    server = Ceph(tmp_path_factory.mktemp("ceph"))
    boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    ).create_bucket(Bucket="s2l-test")
    yield server
    server.stop()


@pytest.fixture
def s3_uri(ceph, monkeypatch):
    """An empty prefix of a bucket, with the keys to it in this process's environment."""
    for name, value in ceph.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://s2l-test/{uuid.uuid4().hex}"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


@pytest.fixture(scope="session")
def finished(local_ray, tmp_path_factory):
    """A run as `select` leaves it: its directory and the selection. Tests read it; to go on with
    it they take a `copy`."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, s2l_ray.select(corpus(), settings(folder))


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, which can go on: no file in a run directory holds its path."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


@pytest.fixture
def start():
    """Start runs; their leases are released after the test."""
    from s2l_ray.pipeline.run import Run  # not at the top: it loads torch

    runs = []

    def begin(config):
        runs.append(Run.start(config))
        return runs[-1]

    yield begin
    for run in runs:
        run.lease.release()


@pytest.fixture
def golden(request):
    """Compare a value with tests/golden/NAME.json; --update-golden writes it there instead."""
    update = request.config.getoption("--update-golden")
    return lambda name, found: compare(TESTS / "golden" / f"{name}.json", found, update)


def pytest_addoption(parser):
    parser.addoption(
        "--slice", choices=slices.SLICES, help="run the tests of one slice alone (tests/slices.py)"
    )
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the golden tests find to tests/golden instead of comparing it",
    )

    parser.addoption("--table", type=Path, help="add the table of faults to this file (soak.py)")


COLLECTED = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)  # before -m takes tests away
def pytest_collection_modifyitems(config, items):
    config.stash[COLLECTED] = list(items)
    if name := config.getoption("slice"):
        config.hook.pytest_deselected(items=[i for i in items if not slices.in_slice(i, name)])
        items[:] = [item for item in items if slices.in_slice(item, name)]


@pytest.fixture
def collected(request):
    """All tests that pytest found, those that it will not run too."""
    return request.config.stash[COLLECTED]


def pytest_terminal_summary(terminalreporter):
    """The table of faults, where any were tried."""
    faults = sys.modules.get("support.faults")
    if faults is not None and faults.TABLE:
        terminalreporter.section("faults")
        for line in faults.report():
            terminalreporter.line(line)
        if table := terminalreporter.config.getoption("--table"):
            soak.add(table, faults.rows())
