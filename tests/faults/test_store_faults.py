"""Runs whose store is in trouble or whose files are damaged."""

import os
import random
import shutil
import threading
from pathlib import Path

import psutil
import pytest
from support import faults
from support.faults import TABLE, Command, Fault, survives
from support.proxy import KINDS, Proxy

pytestmark = pytest.mark.faults  # each of these runs takes minutes


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
    if fault.kind == "file altered":  # a run reads it only to make trajectories again
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
    leases = sorted(os.listdir(command.store.address("lease")))
    assert leases == [".lock", "00000001.json", "00000002.json"]
