"""Runs on a cluster whose nodes die, join, are drained, and run out of disk."""

import json
import time
from pathlib import Path

import pytest
from support import faults
from support.faults import TABLE, Command, Fault, Nodes, survives

pytestmark = pytest.mark.faults  # each of these runs takes minutes


def test_nodes_die_and_disks_are_full(ceph, in_s3, undisturbed, nodes, tmp_path, draw):
    command = Command(tmp_path, faults.settings(*in_s3), nodes=nodes)
    wanted = [Fault("node", stage) for stage in ("corpus", "proxy", "losses", "clusters")]
    disks = [Fault("full disk", stage) for stage in ("proxy", "losses")]
    survives(command, [*wanted, *disks], ceph, draw, undisturbed)
    told = command.told()
    assert told.count("No space left on device") == 2, told
    assert "training continues without this node" in told
    assert "its parts go to other nodes" in told


@pytest.mark.soak
def test_a_node_that_is_told_to_go_leaves_a_resume_point(folder, tmp_path):
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    config["proxy"] |= {"max_steps": 2000, "resume_every": 2000, "num_checkpoints": 2}
    nodes = Nodes(tmp_path)
    command = Command(tmp_path, config, nodes=nodes)
    command.start()
    told, found, row = False, [], TABLE["node told to go", "proxy"]
    row.tried += 1
    try:
        while command.process.poll() is None:
            assert time.monotonic() - command.began < faults.LIMIT, command.told()
            nodes.replace()
            if command.stage() == "proxy" and not told and "of 2,000 steps" in command.told():
                going = nodes.of(command.processes("training worker")[0])
                nodes.drain(going)
                told = True
            if told and not found and (found := resume_points(command.store)):
                nodes.kill(going)
            time.sleep(0.1)
    finally:
        nodes.stop()
    assert command.process.returncode == 0, command.told()
    assert len(found) == 1 and 0 < found[0] < 1000  # nothing else asks for one before step 1,000
    faults.check(command.store)
    row.survived += 1


def resume_points(store):
    """The steps of the proxy's that are finished."""
    files = Path(store.uri).glob("proxy/*/resume/*/manifest.json")
    return [json.loads(file.read_text())["info"]["step"] for file in files]


@pytest.mark.soak
def test_a_node_joins_and_the_first_one_leaves(folder, tmp_path):
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    whole_node = {"num_workers": 1, "cpus_per_worker": 2}
    # Ray Train looks for more workers once a minute: long enough for that.
    config["proxy"] |= {"workers": whole_node, "max_workers": 2, "max_steps": 2500}
    config["trajectories"] = {"workers": whole_node, "max_workers": 2}
    nodes = Nodes(tmp_path, count=1)
    [first] = nodes.disks
    command = Command(tmp_path, config, nodes=nodes)
    command.start()
    trainers, joined, left, row = 0, None, False, TABLE["node joins, first one leaves", "losses"]
    row.tried += 1
    try:
        while command.process.poll() is None:
            assert time.monotonic() - command.began < faults.LIMIT, command.told()
            stage = command.stage()
            if stage == "proxy" and not joined and command.processes("training worker"):
                nodes.add()
                joined = True
            if stage == "proxy":
                trainers = max(trainers, len(command.processes("training worker")))
            if stage == "losses" and not left and len(command.processes("scoring actor")) == 2:
                nodes.kill(first)
                left = True
            time.sleep(0.2)
    finally:
        nodes.stop()
    assert command.process.returncode == 0, command.told()
    assert trainers == 2 and left, command.told()
    faults.check(command.store)
    proxy = command.store.manifest(command.store.read_json("run.json")["current"]["proxy"])
    assert proxy.info["workers"] == 2 and proxy.info["step"] == 2500
    row.survived += 1
