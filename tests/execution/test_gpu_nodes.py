"""Where work runs if only some nodes have GPUs, and the warning about unused GPUs."""

import json
import subprocess
import sys

import pytest
import ray
from support.head import REPOSITORY, environment

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import NodeFull
from s2l_ray.execution import nodes


def have(monkeypatch, *of):
    """Nodes with so many CPUs and GPUs each."""
    alive = [
        {
            "Alive": True,
            "NodeID": str(n),
            "Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        }
        for n, (cpus, gpus) in enumerate(of)
    ]
    alive.append({"Alive": False, "NodeID": "dead", "Resources": {"CPU": 99}})
    monkeypatch.setattr(ray, "nodes", lambda: alive)
    gpus = sum(gpus for _, gpus in of)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": float(gpus)} if gpus else {})


@pytest.mark.parametrize(
    ("of", "actors", "away"),
    [
        ([(8, 0)], 8, None),
        ([(8, 1)], 8, None),  # all nodes are alike
        ([(8, 0), (8, 1), (1, 0)], 9, "1"),
        ([(16, 0), (8, 1), (2, 1)], 16, "1,2"),
        ([(4, 0), (64, 8), (64, 8)], 132, None),  # a small head: the GPU nodes have the CPUs
        ([(0, 0), (6, 1)], 6, None),
        ([(0, 0)], 1, None),  # an autoscaler's head: nodes are to come
    ],
)
def test_work_on_cpus_is_for_nodes_without_gpus_if_these_are_large_enough(
    monkeypatch, of, actors, away
):
    have(monkeypatch, *of)
    assert nodes.cpus_for_actors() == actors
    options = nodes.cpu_work()
    assert options["label_selector"] == ({"ray.io/node-id": f"!in({away})"} if away else {})
    assert options.get("fallback_strategy") == ([{"label_selector": {}}] if away else None)
    full = {"0": NodeFull("full", "0")}
    if len(of) > 1:
        excluded = "0," + away if away else "0"
        assert nodes.cpu_work(full)["label_selector"] == {"ray.io/node-id": f"!in({excluded})"}


def test_gpus_that_nobody_asks_for_are_told(monkeypatch, said):
    cpu, gpu = WorkersConfig(), WorkersConfig(gpus_per_worker=1)
    have(monkeypatch, (8, 0), (8, 4))
    nodes.warn_of_unused_gpus({"proxy.workers": cpu, "target.workers": gpu, "x.workers": cpu})
    [line] = said().splitlines()
    assert line.startswith("the cluster has GPUs (4), but proxy.workers and x.workers ask for none")
    nodes.warn_of_unused_gpus({"proxy.workers": gpu})
    have(monkeypatch, (8, 0))
    nodes.warn_of_unused_gpus({"proxy.workers": cpu})
    assert said() == ""


@pytest.mark.slow
def test_on_a_cluster_with_a_gpu_node():
    """In a process of its own, since there its Ray has several nodes (gpu_nodes.py)."""
    script = REPOSITORY / "tests/support/gpu_nodes.py"
    done = subprocess.run(
        [sys.executable, script], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for kind in ("folded", "mapped", "shuffled", "actors"):
        assert found[kind] == ["cpu"], kind
    assert found["after the CPUs are gone"] == 1  # work that was to stay away from all nodes
    assert found["only GPU nodes"] == ["gpu", "gpu 2"]
    # The GPU of a node fails: another node makes all parts, and that node is avoided from then on.
    failing = found["failing GPU"]
    assert (failing["parts"], failing["made by"]) == (6, ["gpu 2"])
    assert 1 <= failing["tries on it"] <= 3
