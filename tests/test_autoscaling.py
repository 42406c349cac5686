"""A cluster that begins without workers: stages start the nodes that they ask for, and these go."""

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import faults
import pytest
import yaml
from head import REPOSITORY, Head, environment, free_port

from s2l_ray.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def head():
    """Ray's autoscaler with its provider of nodes that are processes of this machine."""
    folder, port = Path(tempfile.mkdtemp(prefix="s2l", dir="/tmp")), free_port()
    scaling = {
        "cluster_name": "test",
        "max_workers": 4,
        "idle_timeout_minutes": 0.1,
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}"},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 1},
            "large": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
    }
    (folder / "scaling.yaml").write_text(yaml.safe_dump(scaling))
    started = Head(
        folder, f"--autoscaling-config={folder / 'scaling.yaml'}", num_cpus=0, port=port,
        RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1",
    )  # fmt: skip
    yield started
    started.stop()
    shutil.rmtree(folder, ignore_errors=True)


def nodes(head):
    """How many workers there are, by type."""
    found = Counter()
    for pid in head.processes():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet":
                for entry in environ:
                    if entry.startswith(b"RAY_NODE_TYPE_NAME="):
                        found[entry.partition(b"=")[2].decode()] += 1
        except OSError:
            continue
    return found


def test_nodes_come_for_their_stage_and_go_when_idle(head, tmp_path):
    faults.write_corpus(tmp_path / "corpus.jsonl", count=100)
    config = faults.settings(tmp_path / "run", tmp_path / "corpus.jsonl")
    config["selection"]["budget"] = 50
    for stage in ("proxy", "trajectories"):  # one worker fills a large node, and no small one
        config[stage]["workers"] = {"num_workers": 2, "cpus_per_worker": 3}
    command = faults.Command(tmp_path, config)
    assert not nodes(head)

    seen, done = {}, threading.Event()  # stage -> the most nodes of each type

    def look():
        while not done.wait(0.5):
            stage = command.stage()
            seen[stage] = seen.get(stage, Counter()) | nodes(head)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        run = subprocess.run(
            [sys.executable, "jobs/select.py", command.file], cwd=REPOSITORY,
            env=environment(RAY_ADDRESS=head.address, **head.env), text=True, capture_output=True,
            timeout=400,
        )  # fmt: skip
    finally:
        done.set()
        watcher.join()
    assert run.returncode == 0, run.stderr
    assert len(faults.selected(Store(tmp_path / "run"))) == 50
    assert seen["corpus"] and not seen["corpus"]["large"]
    assert seen["proxy"]["large"] == 2
    until = time.monotonic() + 60
    while nodes(head) and time.monotonic() < until:
        time.sleep(1)
    assert not nodes(head)
