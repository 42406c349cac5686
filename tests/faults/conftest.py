"""What the fault tests share: an undisturbed run to compare with, and clusters and stores."""

import random

import pytest
from support import faults
from support.faults import Command, Nodes

from s2l_ray.store import Store


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("faults")
    faults.write_corpus(place / "corpus.jsonl")
    return place


@pytest.fixture(scope="session")
def undisturbed(folder):
    """A run in a local folder, without faults."""
    (folder / "local").mkdir()
    config = faults.settings(folder / "local" / "run", folder / "corpus.jsonl")
    command = Command(folder / "local", config)
    faults.disturbed(command, [], None, random.Random(0))
    return command


@pytest.fixture
def draw(request):
    return random.Random(request.node.name)


@pytest.fixture
def nodes(s3_uri, tmp_path):
    cluster = Nodes(tmp_path)
    yield cluster
    cluster.stop()


@pytest.fixture
def in_s3(s3_uri, folder):
    """(run_dir, corpus) in a real S3."""
    Store(s3_uri).objects.put_file(folder / "corpus.jsonl", "corpus/corpus.jsonl")
    return f"{s3_uri}/run", f"{s3_uri}/corpus/corpus.jsonl"


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    where = request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "run")
    return lambda number: f"{where}/{number}"
