"""A run in a real S3 with one fault of each kind on its way: the same selection, no secret told."""

import os
import random
import shutil
import tempfile
import threading
from pathlib import Path

import faults
import psutil
import pytest
from faults import Command, Fault
from proxy import KINDS, Proxy

from s2l_ray.store import Store

pytestmark = pytest.mark.faults  # each of these runs takes one to three minutes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("faults")
    faults.write_corpus(place / "corpus.jsonl")
    return place


@pytest.fixture(scope="module")
def undisturbed(folder):
    """A run in a local folder: its store and its selection."""
    (folder / "local").mkdir()
    config = faults.settings(folder / "local" / "run", folder / "corpus.jsonl")
    command = Command(folder / "local", config)
    faults.disturbed(command, [], None, random.Random(0))
    return command.store, faults.selected(command.store)


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


def test_one_fault_of_each_kind_in_one_run(ceph, s3_uri, folder, undisturbed, tmp_path):
    proxy = Proxy(ceph.endpoint, dict.fromkeys(KINDS, 0.01), seed=1)
    sessions = Path(tempfile.mkdtemp(prefix="s2l", dir="/tmp"))
    corpus = f"{s3_uri}/corpus/corpus.jsonl"
    config = faults.settings(f"{s3_uri}/run", corpus, endpoint=proxy.endpoint)
    command = Command(tmp_path, config, {"RAY_TMPDIR": str(sessions)})
    Store(s3_uri).objects.put_file(folder / "corpus.jsonl", "corpus/corpus.jsonl")
    wanted = [
        Fault("store away", "proxy", 3),
        Fault("training worker", "proxy", 9),
        Fault("scoring actor", "losses", 0),
        Fault("driver", "losses", 2),
        Fault("k-means actor", "clusters", 0),
    ]
    with Watch() as watch:
        faults.disturbed(command, wanted, ceph, random.Random(0))
    assert all(fault.done for fault in wanted), wanted
    assert sum(proxy.counts[kind] for kind in KINDS) > 5, proxy.counts
    proxy.stop()
    faults.check(command.store)
    assert faults.selected(command.store) == undisturbed[1]

    secret = ceph.secret_key
    assert not [line for line in watch.seen if secret in line]
    for name in command.store.objects.sizes(""):
        assert secret.encode() not in command.store.read_bytes(name), name
    for file in [*sessions.rglob("*"), *tmp_path.rglob("*")]:
        if file.is_file() and not file.is_symlink():
            assert secret.encode() not in file.read_bytes(), file
    shutil.rmtree(sessions, ignore_errors=True)


@pytest.mark.parametrize("change", ["cut", "flip", "gone"])
def test_a_damaged_file_is_named_and_made_again(undisturbed, folder, tmp_path, change):
    store, chosen = undisturbed
    config = faults.settings(tmp_path / "run", folder / "corpus.jsonl")
    shutil.copytree(store.uri, tmp_path / "run")
    command = Command(tmp_path, config)
    current = command.store.read_json("run.json")["current"]
    stage = {"cut": "tokens", "flip": "losses", "gone": "trajectories"}[change]
    path = next(Path(command.store.address(current[stage])).rglob("*part-00003*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-7] if change == "cut" else data)
    if change == "flip":  # what was made of it has to be made anew for it to be read at all
        shutil.rmtree(command.store.address("trajectories"))
    faults.disturbed(command, [], None, random.Random(0))
    log = command.log.read_text()
    assert str(path) in log and "this stage is made again" in log
    assert path.read_bytes() != bytes(data)
    faults.check(command.store)
    assert faults.selected(command.store) == chosen
    assert os.listdir(command.store.address("lease")) == ["00000001.json", "00000002.json"]
