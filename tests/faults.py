"""A small run in processes of its own, and faults that kill what it is made of (test_faults.py)."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import yaml

from s2l_ray.config import StorageConfig
from s2l_ray.s3 import client
from s2l_ray.store import Store

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = ("corpus", "tokens", "proxy", "losses", "trajectories", "clusters", "selections")
# Whom a fault kills: what Ray calls the process.
ACTORS = {
    "scoring actor": ("losses", "MapWorker(MapBatches(_Worker))"),
    "k-means actor": ("clusters", "_ChunkActor"),
    "training worker": ("proxy", "RayTrainWorker"),
}
LIMIT = 420  # seconds for a command


@dataclass
class Fault:
    kind: str  # a key of ACTORS, "driver", "node", "store away", or "store in trouble"
    stage: str
    delay: float = 0.0  # seconds after the stage began
    done: bool = False


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
            "model": {"architecture": {"model_type": "gpt_neox"} | shape, "tokenizer_vocab": 320},
            "max_steps": 120,
            "num_checkpoints": 4,
            "global_batch_size": 16,
            "micro_batch_size": 8,
            "learning_rate": 0.01,
            "resume_every": 10,
            "max_failures": 10,
            "workers": {"num_workers": 2},
        },
        "trajectories": {"workers": {"num_workers": 2}},
        "clusters": {"n_clusters": 40, "tol": 0.0},
        "selection": {"budget": 100},
        "report": {"examples": False},
        "storage": {"lease_seconds": 60} | storage,
    }


class Command:
    """`python jobs/select.py` on one run directory, started as often as its driver is killed."""

    def __init__(self, folder, config, env=None):
        self.folder, self.store = Path(folder), Store(config["run_dir"])
        self.quick, self.have = Store(config["run_dir"]), set()
        if not self.quick.is_local:  # it must not wait for a store that is away
            self.quick.objects.client = client(StorageConfig(), attempts=1, timeout=1)
        self.file = self.folder / "config.yaml"
        self.file.write_text(yaml.safe_dump(config))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env = kept | (env or {})
        self.starts = 0

    def start(self):
        self.starts += 1
        self.log = self.folder / f"log-{self.starts}"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "jobs/select.py", str(self.file)],
                cwd=REPOSITORY, env=self.env, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.began = time.monotonic()

    def stage(self):
        """The stage that runs just now: the first that run.json does not have yet."""
        with suppress(OSError, ValueError):
            current = self.quick.read_json("run.json")["current"]
            self.have = {name.split("/")[0] for name in current}
        return next((stage for stage in STAGES if stage not in self.have), None)

    def processes(self, kind):
        """The processes of a kind of actor, while they work."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        found = []
        for process in below:
            with suppress(psutil.Error, OSError):
                title = " ".join(process.cmdline())
                if ACTORS[kind][1] in title or (
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
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for process in below:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def inject(command, fault, ceph, draw):
    """Whether the fault happened: its stage was met, and whom it kills was there."""
    if fault.kind in ACTORS:
        found = command.processes(fault.kind)
        if not found:
            return False
        draw.choice(found).kill()
    elif fault.kind == "driver":
        command.kill_driver()
    elif fault.kind == "store away":
        ceph.pause()
        threading.Timer(20, ceph.resume).start()
    return True


def disturbed(command, faults, ceph, draw):
    """Run to the end with these faults, in the order of their stages; seconds it took."""
    began = time.monotonic()
    command.start()
    waiting = sorted(faults, key=lambda fault: STAGES.index(fault.stage))
    due = None
    while True:
        if command.process.poll() is not None:
            if command.process.returncode == 0:
                break
            raise AssertionError(f"exit {command.process.returncode}: {command.log.read_text()}")
        assert time.monotonic() - command.began < LIMIT, f"hangs: {command.log.read_text()}"
        if waiting and due is None:
            stage = command.stage()
            if stage == waiting[0].stage:
                due = time.monotonic() + waiting[0].delay
            elif stage is None or STAGES.index(stage) > STAGES.index(waiting[0].stage):
                waiting.pop(0)  # the stage was too quick for it: not counted as tried
        if due is not None and time.monotonic() >= due and waiting:
            if inject(command, waiting[0], ceph, draw):
                fault = waiting.pop(0)
                fault.done, due = True, None
                if fault.kind == "driver":
                    command.start()
            elif command.stage() != waiting[0].stage:
                waiting.pop(0)
                due = None
        time.sleep(0.05)
    return time.monotonic() - began


def selected(store):
    """What was chosen: file names with their checksums, and the rows in rank order."""
    current = store.read_json("run.json")["current"]
    folder = next(folder for name, folder in current.items() if name.startswith("selections/"))
    manifest = store.manifest(folder)
    table = pa.concat_tables([store.read_part(folder, part) for part in manifest.parts])
    return [(p.file, p.checksum) for p in manifest.parts], table["example_id"].to_pylist()


def check(store):
    """All manifests hold, no id is there twice."""
    for folder in store.read_json("run.json")["current"].values():
        manifest = store.manifest(folder)
        assert store.fault(manifest) is None
        if folder.startswith("proxy"):
            continue
        ids = defaultdict(list)
        for part in manifest.parts:
            table = store.read_part(folder, part)
            ids[part.unit.rpartition("/")[0]] += table["example_id"].to_pylist()
        for where, found in ids.items():
            assert len(set(found)) == len(found), f"{folder}/{where}: an id twice"
