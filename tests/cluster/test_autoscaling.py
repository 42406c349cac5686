"""A cluster that begins with no worker node: each stage brings the nodes it asks for, and they go
again. Real nodes of Ray, started by its autoscaler as processes of this machine."""

import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
import yaml
from support.faults import STAGES, TABLE, settings, write_corpus
from support.head import REPOSITORY, Head, environment

from s2l_ray.store import Store

NODE_TYPES = {
    "cpu_worker": {"CPU": 1},
    "gpu_worker": {"CPU": 2, "accelerator_type:L4": 1},  # no GPU: for what is asked of one by name
}


@pytest.fixture
def head(tmp_ray):
    kinds = {
        name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 1}
        for name, resources in NODE_TYPES.items()
    }
    started = Head(tmp_ray, num_cpus=0, node_types=kinds)
    yield started
    started.stop()


def worker_nodes(head):
    """The types of the worker nodes that are there, by their processes."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.name() == "raylet" and str(head.folder) in line and "CPU," in line:
                found.append("gpu_worker" if "accelerator_type:L4" in line else "cpu_worker")
    assert len(set(found)) == len(found)
    return set(found)


@pytest.mark.slow
@pytest.mark.soak
def test_nodes_come_for_a_stage_and_go(head, tmp_path):
    write_corpus(tmp_path / "corpus.jsonl")
    config = settings(tmp_path / "run", tmp_path / "corpus.jsonl")
    on_gpus = {"num_workers": 1, "cpus_per_worker": 2, "accelerator_type": "L4"}
    config["proxy"]["workers"] = config["trajectories"]["workers"] = on_gpus
    config["proxy"]["num_checkpoints"] = 40  # to be scored for longer than an idle node stays
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    row = TABLE["cluster that begins with no node", ""]
    row.tried += 1
    store, seen, log = Store(tmp_path / "run"), [], tmp_path / "log"
    assert worker_nodes(head) == set()
    with open(log, "w") as out:
        run = subprocess.Popen(
            [sys.executable, "jobs/select.py", str(tmp_path / "config.yaml")],
            cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT,
            env=environment(**head.env, RAY_ADDRESS=head.address),
        )  # fmt: skip
    until = time.monotonic() + 500
    while run.poll() is None:
        assert time.monotonic() < until, log.read_text()
        have = set()
        with suppress(FileNotFoundError):
            have = {name.split("/")[0] for name in store.read_json("run.json")["current"]}
        now = next((stage for stage in STAGES if stage not in have), None), worker_nodes(head)
        if not seen or seen[-1] != now:
            seen.append(now)
        time.sleep(0.2)
    assert run.returncode == 0, log.read_text()

    until = time.monotonic() + 60
    while worker_nodes(head):
        assert time.monotonic() < until, "nodes stay although nothing is to do"
        time.sleep(0.5)
    of = {stage: [nodes for at, nodes in seen if at == stage] for stage in STAGES}
    assert of["corpus"][0] == set() and of["corpus"][-1] == {"cpu_worker"}, seen
    assert not any("gpu_worker" in nodes for stage in ("corpus", "tokens") for nodes in of[stage])
    assert of["proxy"][0] == {"cpu_worker"} and "gpu_worker" in of["proxy"][-1], seen
    # The one that is idle goes while the other works; Ray Train may have its own actors on it.
    assert {"gpu_worker"} in of["losses"], seen
    assert "gpu_worker" in of["losses"][-1], seen
    row.survived += 1
