"""Runs in processes of their own, and faults that strike what they are made of (tests/faults)."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import yaml
from ray._private.utils import get_system_memory, get_used_memory
from ray.cluster_utils import Cluster

from s2l_ray.config import StorageConfig
from s2l_ray.store import Store
from s2l_ray.store.s3_client import client
from support.head import RAY, REPOSITORY, environment

STAGES = ("corpus", "tokens", "proxy", "losses", "trajectories", "clusters", "selections",
          "targets", "evaluations")  # fmt: skip
# Whom a fault kills, and what Ray calls its process.
ACTORS = {
    "scoring actor": ("PartMaker",),
    "k-means actor": ("ChunkActor",),
    "training worker": ("RayTrainWorker", "_work_alone"),
}
DEATHS = ("driver", "node")
ROUNDS = int(os.environ.get("ROUNDS", "1"))  # how often each death is tried
LIMIT = 600  # seconds for one start of a command
AWAY = 20  # seconds that the store is stopped


@dataclass
class Fault:
    kind: str  # a key of ACTORS, "driver", "node", "store away", "full disk", "out of memory"
    stage: str
    delay: float = 0.0  # seconds after the stage began, or after the fault before
    done: bool = False


@dataclass
class Row:
    """Of the table: how often a fault was tried in a stage, what became of the run."""

    tried: int = 0
    survived: int = 0
    seconds: float = 0.0


TABLE: dict[tuple[str, str], Row] = defaultdict(Row)
REQUESTS: Counter[str] = Counter()  # of a run through a proxy, by what became of them


def rows():
    """The table, as JSON."""
    return [{"kind": kind, "stage": stage} | asdict(row) for (kind, stage), row in TABLE.items()]


def report():
    """The table, as lines."""
    order = ("", *STAGES)
    found = sorted(TABLE.items(), key=lambda item: (item[0][0], order.index(item[0][1])))
    sums = {"all": Row(), "deaths of drivers and nodes": Row()}
    for (kind, _), row in found:
        for name in ("all", *(["deaths of drivers and nodes"] if kind in DEATHS else [])):
            sums[name].tried += row.tried
            sums[name].survived += row.survived
            sums[name].seconds += row.seconds
    yield f"{'fault':28} {'stage':13} {'tried':>5} {'survived':>8} {'seconds lost, each':>18}"
    for (kind, stage), row in [*found, *((((name, ""), row)) for name, row in sums.items())]:
        yield (
            f"{kind:28} {stage:13} {row.tried:5} {row.survived:8} "
            f"{row.seconds / max(row.tried, 1):18.0f}"
        )
    if REQUESTS:
        yield "requests to the store: " + ", ".join(f"{n} {kind}" for kind, n in REQUESTS.items())


def write_corpus(path, count=400, seed=0):
    numbers = np.random.default_rng(seed)
    with open(path, "w") as file:
        for number in range(count):
            answer = " ".join(f"w{numbers.integers(40)}" for _ in range(numbers.integers(2, 20)))
            row = {"instruction": f"say {number}", "output": answer, "source": f"s{number % 3}"}
            file.write(json.dumps(row) + "\n")


def settings(run_dir, corpus, **storage):
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip
    return {
        "name": "faults",
        "run_dir": str(run_dir),
        "corpus": {"path": str(corpus), "num_parts": 6},
        "prompt": {"template": "plain", "max_length": 64},
        "proxy": {
            "max_steps": 120,
            "global_batch_size": 16,
            "micro_batch_size": 8,
            "learning_rate": 0.01,
            "resume_every": 10,
            "workers": {"num_workers": 2},
            "model": {"architecture": {"model_type": "gpt_neox"} | shape, "tokenizer_vocab": 320},
            "num_checkpoints": 4,
        },
        "trajectories": {"workers": {"num_workers": 2}},
        "clusters": {"n_clusters": 40, "tol": 0.0, "num_actors": 2},
        "selection": {"budget": 100},
        "report": {"examples": False},
        "storage": {"lease_seconds": 60} | storage,
    }


class Nodes:
    """A cluster of a head without CPUs and nodes of two, each with a small disk for its temporary
    files, that is this machine. Nodes are killed and new ones take their place."""

    def __init__(self, folder, count=2):
        self.folder, self.count, self.disks = Path(folder), 0, {}
        # A death is noticed in seconds, not in half a minute.
        health = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": health},
        )
        self.env = {"RAY_ADDRESS": self.cluster.address}
        self.due = []  # when new nodes come
        for _ in range(count):
            self.add()

    def add(self):
        self.count += 1
        disk = self.folder / f"disk-{self.count}"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
        node = self.cluster.add_node(num_cpus=2, env_vars={"TMPDIR": str(disk)})
        self.disks[node] = disk

    def of(self, process):
        """The node that a worker process is of."""
        for node in self.disks:
            raylet = node.all_processes["raylet"][0].process.pid
            if raylet in [parent.pid for parent in process.parents()]:
                return node
        return None

    def kill(self, node):
        """kill -9 of all its processes; another node comes two seconds later."""
        below = psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)
        kill(below)
        self.cluster.remove_node(node, allow_graceful=False)
        self._unmount(node)
        self.due.append(time.monotonic() + 2)

    def drain(self, node):
        """Tell Ray that the node will be taken away, as a cloud's notice does."""
        reason = "DRAIN_NODE_REASON_PREEMPTION"
        subprocess.run(
            [RAY, "drain-node", "--address", self.cluster.address, "--node-id", node.node_id,
             "--reason", reason, "--reason-message", "test", "--deadline-remaining-seconds", "60"],
            env=environment(), check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def replace(self):
        """Start the nodes that are due."""
        while self.due and time.monotonic() >= self.due[0]:
            self.due.pop(0)
            self.add()

    def fill(self, node):
        """Leave no room for a model on the node's disk; Python's tempfile leaves a disk that has
        none at all before it is first used."""
        with open(self.disks[node] / "ballast", "wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
            file.truncate(file.tell() - (1 << 14))

    def mend(self):
        """Someone has made room."""
        for disk in self.disks.values():
            (disk / "ballast").unlink(missing_ok=True)

    def _unmount(self, node):
        subprocess.run(["umount", "--lazy", self.disks.pop(node)], check=True)

    def stop(self):
        self.cluster.shutdown()
        for node in list(self.disks):
            self._unmount(node)


class Command:
    """A job on one run directory, started as often as its driver is killed."""

    def __init__(self, folder, config, env=None, *, job="select", nodes=None):
        self.folder, self.store, self.job = Path(folder), Store(config["run_dir"]), job
        self.nodes = nodes
        self.quick, self.have = Store(config["run_dir"]), set()
        if not self.quick.is_local:  # it must not wait for a store that is away
            self.quick.objects.client = client(StorageConfig(), attempts=1, timeout=1)
            self.quick.objects.patience = 0.0
        self.file = self.folder / "config.yaml"
        self.file.write_text(yaml.safe_dump(config))
        self.env = environment(**(nodes.env if nodes else {}), **(env or {}))
        self.starts = 0
        self.spent = dict.fromkeys(STAGES, 0.0)  # seconds in each stage, over all starts

    def start(self):
        self.starts += 1
        self.log = self.folder / f"log-{self.starts}"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, f"jobs/{self.job}.py", str(self.file)],
                cwd=REPOSITORY, env=self.env, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.began = time.monotonic()

    def told(self):
        """All that it wrote, over its starts."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("log-*")))

    def stage(self):
        """The stage that runs just now: the first that run.json does not have yet."""
        with suppress(OSError, ValueError):
            current = self.quick.read_json("run.json")["current"]
            names = [name.split("/") for name in current]
            self.have = {name for name, *rest in names if "tokens" not in rest}
        return next((stage for stage in STAGES if stage not in self.have), None)

    def processes(self, kind):
        """The processes of a kind of actor, while they work."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):
                title = " ".join(process.cmdline())
                if any(name in title for name in ACTORS[kind]) or (
                    # Ray calls an actor idle while threads of its own work: known by its libraries.
                    kind != "k-means actor"
                    and title == "ray::IDLE"
                    and "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text()
                    and process.cpu_percent(0.2) > 20
                ):
                    found.append(process)
        return found

    def kill_driver(self):
        """kill -9, and what a machine that goes takes along."""
        below = [] if self.nodes else psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        kill(below)


def kill(processes):
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def inject(command, fault, ceph, draw):
    """Whether the fault happened: whom it strikes was there."""
    nodes = command.nodes
    if fault.kind in ACTORS:
        found = command.processes(fault.kind)
        if not found:
            return False
        with suppress(psutil.NoSuchProcess):
            draw.choice(found).kill()
    elif fault.kind == "driver":
        command.kill_driver()
    elif fault.kind == "node":
        if len(nodes.disks) < 2:  # the one before has not been replaced yet
            return False
        nodes.kill(draw.choice(sorted(nodes.disks, key=nodes.disks.get)))
    elif fault.kind == "full disk":
        kind = "training worker" if fault.stage == "proxy" else "scoring actor"
        working = [nodes.of(process) for process in command.processes(kind)]
        if not working or working[0] is None:
            return False
        nodes.fill(working[0])
    elif fault.kind == "out of memory":
        return exhaust_memory(command)
    elif fault.kind == "store away":
        ceph.pause()
        threading.Timer(AWAY, ceph.resume).start()
    return True


def exhaust_memory(command):
    """Take memory until Ray kills a worker for it, as its log tells; False if none was at work."""
    kind = "training worker" if command.stage() == "proxy" else "scoring actor"
    if not command.processes(kind):
        return False
    logs = Path(command.env["RAY_TMPDIR"], "ray", "session_latest", "logs")
    killed, ballast, until = _killed_for_memory(logs), [], time.monotonic() + 60
    while _killed_for_memory(logs) == killed:
        assert time.monotonic() < until, "Ray does not mind"
        ballast.append(np.ones(64 << 20, np.uint8))
    return True


def _killed_for_memory(logs):
    return (logs / "raylet.out").read_text().count("Selected to kill")


def little_memory(gigabytes=6):
    """The environment for a Ray that kills workers when so much more than now is used."""
    threshold = (get_used_memory() + gigabytes * 2**30) / get_system_memory()
    return {"RAY_memory_usage_threshold": f"{threshold:.3f}"}


def disturbed(command, faults, ceph, draw, undisturbed=None):
    """Run to the end with these faults, in the order of their stages, and tell the TABLE.

    undisturbed: the seconds that each stage took in a Command without faults.
    """
    command.start()
    waiting = sorted([f for f in faults if not f.done], key=lambda fault: STAGES.index(fault.stage))
    due, reached, before = None, 0, time.monotonic()
    while command.process.poll() is None:
        assert time.monotonic() - command.began < LIMIT, f"hangs: {command.log.read_text()}"
        if command.nodes:
            command.nodes.replace()
        stage = command.stage()
        now, place = time.monotonic(), STAGES.index(stage) if stage else len(STAGES)
        if place > reached:
            reached = min(place, len(STAGES) - 1)
            if command.nodes:
                command.nodes.mend()
        command.spent[STAGES[reached]] += now - before
        before = now
        while waiting and STAGES.index(waiting[0].stage) < place:
            waiting.pop(0)  # the stage was too quick for it: not counted as tried
            due = None
        if waiting and waiting[0].stage == stage:
            due = due or now + waiting[0].delay
            if now >= due and inject(command, waiting[0], ceph, draw):
                fault, due = waiting.pop(0), None
                fault.done = True
                TABLE[fault.kind, fault.stage].tried += 1
                if fault.kind == "driver":
                    while ceph and not ceph.answers():  # nobody submits to a store that is away
                        time.sleep(0.2)
                    command.start()
        time.sleep(0.05)
    assert command.process.returncode == 0, command.log.read_text()
    for fault in faults:
        if fault.done and undisturbed:
            alike = sum(other.done and other.stage == fault.stage for other in faults)
            lost = command.spent[fault.stage] - undisturbed[fault.stage]
            TABLE[fault.kind, fault.stage].seconds += lost / alike


def survives(command, wanted, ceph, draw, undisturbed):
    """Check that the run finishes under these faults, with the selection of `undisturbed`."""
    # What lasts is felt when more is wanted, at once or later.
    lasting = ("full disk", "out of memory")
    wanted = [
        replace(fault) for fault in wanted for _ in range(1 if fault.kind in lasting else ROUNDS)
    ]
    for fault in wanted:
        alike = sum(other.stage == fault.stage for other in wanted)
        if fault.kind not in lasting:
            fault.delay = draw.uniform(0, (undisturbed.spent.get(fault.stage) or 10) / alike)
    disturbed(command, wanted, ceph, draw, undisturbed.spent)
    check(command.store)
    assert selected(command.store) == selected(undisturbed.store)
    survived(wanted)
    missed = [fault for fault in wanted if not fault.done]
    assert len(missed) <= len(wanted) // 4, missed  # a stage can be over before its fault comes


def survived(faults):
    """Tell the TABLE that the run's result was right."""
    for fault in faults:
        if fault.done:
            TABLE[fault.kind, fault.stage].survived += 1


def selected(store):
    """What was chosen, in rank order: all columns but the address of the corpus file."""
    current = store.read_json("run.json")["current"]
    folder = next(folder for name, folder in current.items() if name.startswith("selections/"))
    manifest = store.manifest(folder)
    table = pa.concat_tables([store.read_part(folder, part) for part in manifest.parts])
    return table.drop_columns("file").to_pylist()


def check(store):
    """All manifests hold, no id is there twice."""
    for folder in store.read_json("run.json")["current"].values():
        manifest = store.manifest(folder)
        assert store.fault(manifest) is None
        if folder.startswith(("proxy", "targets")):
            continue
        ids = defaultdict(list)
        for part in manifest.parts:
            table = store.read_part(folder, part)
            ids[part.unit.rpartition("/")[0]] += table["example_id"].to_pylist()
        for where, found in ids.items():
            assert len(set(found)) == len(found), f"{folder}/{where}: an id twice"
