"""The driver's connection to Ray."""

import os
import subprocess
import sys

import pytest
from support.head import REPOSITORY, environment

from s2l_ray.execution.connect import DRIVER_ENVIRONMENT, WORKER_ENVIRONMENT

PROGRAM = """
import os
import ray
from s2l_ray.execution.connect import connect

connect()
print(dict(os.environ))
print(ray.get(ray.remote(lambda: dict(os.environ)).remote()))
"""
DATASET = """
import os
import threading
import ray
from s2l_ray.execution.connect import connect

connect()
del os.environ["RAY_USAGE_STATS_ENABLED"]  # "0" of a Ray that is started here, not of a cluster
ray.data.range(10).materialize()
print([thread.name for thread in threading.enumerate()])
"""


def test_workers_have_the_environment_of_workers_and_the_driver_keeps_its_own(tmp_ray):
    given = environment(RAY_TMPDIR=str(tmp_ray), GOMP_SPINCOUNT="7")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=given, text=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    of_driver, of_worker = (eval(line) for line in done.stdout.splitlines()[-2:])
    assert of_driver["GOMP_SPINCOUNT"] == "7"
    assert not {*WORKER_ENVIRONMENT} - {"GOMP_SPINCOUNT", *os.environ} & {*of_driver}
    assert WORKER_ENVIRONMENT.items() <= of_worker.items()


@pytest.mark.slow
def test_no_thread_of_a_finished_dataset_is_left_to_meet_the_end_of_ray(tmp_ray):
    """One that lets go of an object while Ray shuts down ends the process with status 1."""
    given = environment(RAY_TMPDIR=str(tmp_ray))
    for name in DRIVER_ENVIRONMENT:
        del given[name]
    done = subprocess.run(
        [sys.executable, "-c", DATASET], cwd=REPOSITORY, env=given, text=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = eval(done.stdout.splitlines()[-1])
    assert "MainThread" in names
    assert not [name for name in names if "data" in name.lower()]
