"""A run whose rows do not fit in Ray's object store, and whose disk for the rest is full."""

import json
import subprocess

import numpy as np
import pytest
from ray.cluster_utils import Cluster
from support import faults
from support.faults import TABLE, Command

pytestmark = [pytest.mark.faults, pytest.mark.soak]
STORE = 80 << 20  # bytes, hardly more than Ray's least
DISK = 24 << 20


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def cluster(disk):
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(disk))
    yield made
    made.shutdown()


def write_corpus(path, rows=600, words=50_000):
    """120 MB, of words of four letters."""
    numbers = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefgh", np.uint8)
    with open(path, "w") as file:
        for number in range(rows):
            text = np.full((words, 5), ord(" "), np.uint8)
            text[:, :2] = numbers.choice(letters, (words, 2))
            text[:, 2:4] = ord("x")
            row = {"instruction": f"say {number}", "output": text.tobytes().decode()[:-1]}
            file.write(json.dumps(row) + "\n")


def test_a_full_disk_under_ray_s_object_store(cluster, disk, tmp_path):
    write_corpus(tmp_path / "corpus.jsonl")
    config = faults.settings(tmp_path / "run", tmp_path / "corpus.jsonl")
    config["proxy"]["max_steps"] = 60
    command = Command(tmp_path, config, {"RAY_ADDRESS": cluster.address})
    row = TABLE["full disk under Ray's object store", "corpus"]
    row.tried += 1
    command.start()
    assert command.process.wait(faults.LIMIT) == 1
    told = command.log.read_text()
    [line] = [line for line in told.splitlines() if "Ray's object store is full" in line]
    assert line.startswith("error: node "), told  # after what Ray's processes say of it
    assert told.splitlines()[-1] == line
    subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)  # someone makes room
    command.start()
    assert command.process.wait(faults.LIMIT) == 0, command.log.read_text()
    faults.check(command.store)
    assert command.store.read_json("run.json")["current"].keys() >= {"corpus", "clusters"}
    row.survived += 1
