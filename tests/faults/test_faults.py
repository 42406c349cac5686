"""Runs that meet with accidents, each at a random moment of its stage: they end with the selection
of an undisturbed run. `make faults` and `make soak` print a table of what was tried."""

import json
import os
import random
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support import faults
from support.faults import TABLE, Command, Fault, Nodes
from support.proxy import KINDS, Proxy

from s2l_ray.store import Store

pytestmark = pytest.mark.faults  # each of these runs takes minutes
SELECT = faults.STAGES[:7]  # the stages of jobs/select.py
ROUNDS = int(os.environ.get("ROUNDS", "1"))  # how often each death is tried


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("faults")
    faults.write_corpus(place / "corpus.jsonl")
    return place


@pytest.fixture(scope="module")
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


def survives(command, wanted, ceph, draw, undisturbed):
    """The run finishes under these faults, with the right selection."""
    # What lasts is felt when more is wanted, at once or later.
    lasting = ("full disk", "out of memory")
    wanted = [
        replace(fault) for fault in wanted for _ in range(1 if fault.kind in lasting else ROUNDS)
    ]
    for fault in wanted:
        alike = sum(other.stage == fault.stage for other in wanted)
        if fault.kind not in lasting:
            fault.delay = draw.uniform(0, (undisturbed.spent.get(fault.stage) or 10) / alike)
    faults.disturbed(command, wanted, ceph, draw, undisturbed.spent)
    faults.check(command.store)
    assert faults.selected(command.store) == faults.selected(undisturbed.store)
    faults.survived(wanted)
    missed = [fault for fault in wanted if not fault.done]
    assert len(missed) <= len(wanted) // 4, missed  # a stage can be over before its fault comes


def test_the_driver_dies_in_every_stage_and_actors_in_theirs(undisturbed, folder, tmp_path, draw):
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    # In a row at one place, so that only the first may be without progress after it.
    config["proxy"]["max_failures"] = 2 * ROUNDS
    wanted = [Fault("driver", stage) for stage in SELECT]
    wanted += [Fault("training worker", "proxy") for _ in range(2)]
    wanted += [Fault("scoring actor", "losses") for _ in range(3)]
    # Before a chunk is done, maybe: fewer than it gives up after.
    wanted += [Fault("k-means actor", "clusters") for _ in range(3)]
    survives(Command(tmp_path, config), wanted, None, draw, undisturbed)


def test_nodes_die_and_disks_are_full(ceph, in_s3, undisturbed, nodes, tmp_path, draw):
    command = Command(tmp_path, faults.settings(*in_s3), nodes=nodes)
    wanted = [Fault("node", stage) for stage in ("corpus", "proxy", "losses", "clusters")]
    disks = [Fault("full disk", stage) for stage in ("proxy", "losses")]
    survives(command, [*wanted, *disks], ceph, draw, undisturbed)
    told = command.told()
    assert told.count("No space left on device") == 2, told
    assert "training goes on without this node" in told
    assert "its parts go to other nodes" in told


@pytest.mark.soak
def test_a_node_that_is_told_to_go_leaves_a_resume_point(folder, tmp_path):
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    config["proxy"] |= {"max_steps": 2000, "resume_every": 2000, "num_checkpoints": 2}
    nodes = Nodes(tmp_path)
    command = Command(tmp_path, config, nodes=nodes)
    command.start()
    told, found = False, []
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
    trainers, joined, left = 0, None, False
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


@pytest.mark.soak
def test_memory_runs_out(undisturbed, folder, tmp_path, draw, tmp_ray):
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    env = {"RAY_TMPDIR": str(tmp_ray)} | faults.little_memory()
    wanted = [Fault("out of memory", stage) for stage in ("proxy", "losses")]
    survives(Command(tmp_path, config, env), wanted, None, draw, undisturbed)


class Watch:
    """Every command line that any process of this machine has, while the block runs."""

    def __enter__(self):
        self.seen, self.over = set(), threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _run(self):
        while not self.over.wait(0.5):
            for process in psutil.process_iter():
                try:
                    self.seen.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue


def test_the_store_is_in_trouble_and_no_secret_is_told(
    ceph, in_s3, undisturbed, tmp_path, draw, tmp_ray
):
    proxy = Proxy(ceph.endpoint, dict.fromkeys(KINDS, 0.01), seed=1)
    config = faults.settings(*in_s3, endpoint=proxy.endpoint)
    command = Command(tmp_path, config, {"RAY_TMPDIR": str(tmp_ray)})
    wanted = [
        *[Fault("store away", stage) for stage in ("proxy", "losses")],
        *[Fault("training worker", "proxy"), Fault("driver", "losses")],
    ]
    with Watch() as watch:
        survives(command, wanted, ceph, draw, undisturbed)
    proxy.stop()
    assert all(proxy.counts[kind] > 3 for kind in KINDS), proxy.counts
    faults.REQUESTS.update(proxy.counts)

    secret = ceph.secret_key
    assert not [line for line in watch.seen if secret in line]
    for name in command.store.objects.sizes(""):
        assert secret.encode() not in command.store.read_bytes(name), name
    for file in [*tmp_ray.rglob("*"), *tmp_path.rglob("*")]:
        if file.is_file() and not file.is_symlink():
            assert secret.encode() not in file.read_bytes(), file


def test_a_target_is_trained_and_evaluated_through_deaths(
    ceph, s3_uri, undisturbed, folder, tmp_path, draw
):
    config = faults.settings(s3_uri, folder / "corpus.jsonl")
    faults.write_corpus(tmp_path / "other.jsonl", count=100, seed=1)
    config["evaluation"] = {"files": {"other": str(tmp_path / "other.jsonl")}}
    config["target"] = {**config["proxy"], "num_checkpoints": None, "zero_stage": 2}
    command, there = Command(tmp_path, config, job="evaluate"), Path(undisturbed.store.uri)
    for file in there.rglob("*"):  # up to the selection it is done
        if file.is_file():
            command.store.objects.put_file(file, str(file.relative_to(there)))
    wanted = [
        *[Fault("training worker", "targets"), Fault("driver", "targets")],
        Fault("driver", "evaluations"),
    ]
    survives(command, wanted, ceph, draw, undisturbed)
    told = command.told()
    assert "reused: corpus, tokens, proxy, losses, trajectories, clusters, selections" in told
    assert "nats per response token" in told


DAMAGES = [
    Fault("file cut short", "tokens"),
    Fault("file altered", "losses"),
    Fault("file gone", "trajectories"),
]


@pytest.mark.parametrize("fault", DAMAGES, ids=lambda fault: fault.kind)
def test_a_damaged_file_is_named_and_made_again(undisturbed, folder, tmp_path, fault):
    store = undisturbed.store
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    shutil.copytree(store.uri, tmp_path / "run")
    command = Command(tmp_path, config)
    current = command.store.read_json("run.json")["current"]
    path = next(Path(command.store.address(current[fault.stage])).rglob("*part-00003*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if fault.kind == "file gone":
        path.unlink()
    else:
        path.write_bytes(data[:-7] if fault.kind == "file cut short" else data)
    if fault.kind == "file altered":  # read only where what was made of it is made anew
        shutil.rmtree(command.store.address("trajectories"))
    fault.done = True
    TABLE[fault.kind, fault.stage].tried += 1
    faults.disturbed(command, [fault], None, random.Random(0))
    log = command.log.read_text()
    assert str(path) in log and "it is made again" in log
    assert path.read_bytes() != bytes(data)
    faults.check(command.store)
    assert faults.selected(command.store) == faults.selected(store)
    faults.survived([fault])
    assert os.listdir(command.store.address("lease")) == ["00000001.json", "00000002.json"]


def test_enough_was_tried():
    deaths = sum(row.tried for (kind, _), row in TABLE.items() if kind in faults.DEATHS)
    assert sum(row.tried for row in TABLE.values()) >= 22 * ROUNDS
    assert deaths >= 9 * ROUNDS
