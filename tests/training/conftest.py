"""The training that others are compared with."""

import pytest
from support.training import Job, config_of


@pytest.fixture(scope="session")
def job(local_ray, tmp_path_factory):
    return Job(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def undisturbed(job):
    """The training that others are compared with: two DDP workers, nothing goes wrong."""
    return job.run("undisturbed", config_of())
