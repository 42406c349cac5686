"""The driver's connection to Ray."""

import os
import subprocess
import sys

from head import REPOSITORY, environment

from s2l_ray.driver import WORKER_ENVIRONMENT

PROGRAM = """
import os
import ray
from s2l_ray import driver

driver.connect()
print(dict(os.environ))
print(ray.get(ray.remote(lambda: dict(os.environ)).remote()))
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
