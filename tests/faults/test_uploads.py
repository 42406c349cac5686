"""A training whose workers or driver are killed before each of the changes that they make to the
run directory: of weights, resume files and manifests. Without Ray: real trainings, in processes
with gloo; on disk and in a real S3."""

import multiprocessing
import os
import re
import signal
import tempfile
from functools import partial, partialmethod
from pathlib import Path

import pytest
import torch
from support.faults import TABLE
from support.training import config_of
from support.workers import as_worker, train_until

from s2l_ray.store import Manifest, Store
from s2l_ray.store.checksums import checksum_of
from s2l_ray.store.lease import Lease
from s2l_ray.training import train as training

pytestmark = pytest.mark.faults
FOLDER, FINGERPRINT, STEPS = "proxy/f", "f", 6
SAVES = {2: False, 3: True, 4: False, 6: True}  # after which steps; whether as a checkpoint
# Children of a process that has torch loaded, and no thread.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["support.workers", "s2l_ray.store.s3", "s2l_ray.training.train", "deepspeed"]
)


def watch_changes(store, env, log, deadly):
    """Note each change of this process, but of leases, and be killed before number `deadly`."""
    count = 0
    os.environ.update(env)

    def change(name, **_):
        nonlocal count
        if "/lease/" in name or "/." in name:  # or of a temporary file
            return
        if count == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        with open(log, "a") as file:
            file.write(f"{name}\n")

    Path(log).touch()
    if store.is_local:
        for owner, method, which in ((os, "replace", 1), (os, "link", 1), (Path, "unlink", 0)):
            noted = partial(changed, getattr(owner, method), which, store.uri, change)
            setattr(owner, method, partialmethod(noted) if owner is Path else noted)
        return
    for request in ("PutObject", "CompleteMultipartUpload", "DeleteObject"):
        store.objects.client.meta.events.register(
            f"before-send.s3.{request}", lambda request, **_: change(request.url)
        )


def changed(real, which, uri, change, *args, **how):
    if str(args[which]).startswith(uri):
        change(str(args[which]))
    return real(*args, **how)


def work(store, rank, world, group, *watched):
    watch_changes(store, *watched)
    config = config_of(workers={"num_workers": world})
    task = partial(train_until, store, FOLDER, config, STEPS, SAVES, STEPS, FINGERPRINT)
    if world == 1:
        torch.set_num_threads(1)
        task()
    else:
        as_worker(rank, world, group, task)


def finish(store, *watched):
    """The driver's part, when all steps are done. What it has Ray do, it does itself."""
    watch_changes(store, *watched)
    training.get, training._verify.remote = lambda made: made, training._verify._function
    tokens = Manifest("tokens/f", "f", [], {"max_length": 16})
    how = {"tokenizer_folder": "", "folder": FOLDER, "fingerprint": FINGERPRINT, "seed": 5}
    training.train(store, tokens, config_of(), board=object(), **how)


def attempt(uri, world, log, deadly=None):
    """Train as far as it goes. deadly: (who, number): a rank or "driver", and the change that it
    is killed before. Return whether it was."""
    store = Store(uri)
    lease = Lease(store, seconds=60).take()
    who, number = deadly or (None, -1)

    def watched(process):
        """The environment of this process is not that of the server that the others come from."""
        return dict(os.environ), f"{log}-{process}", number if who == process else -1

    with tempfile.TemporaryDirectory() as group:
        workers = [
            PROCESSES.Process(target=work, args=(store, rank, world, group, *watched(rank)))
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            if any(worker.exitcode for worker in workers):  # the others would wait for it
                for worker in workers:
                    worker.kill()
            workers[0].join(0.05)
    codes = {worker.exitcode for worker in workers}
    if codes == {0}:
        driver = PROCESSES.Process(target=finish, args=(store, *watched("driver")))
        driver.start()
        driver.join(120)
        codes.add(driver.exitcode)
    lease.release()  # what is left of a dead owner's is shown elsewhere
    assert codes <= {0, -signal.SIGKILL}, codes
    return codes != {0}


def contents(uri):
    """The files of the finished stage, and all that is there: but for temporary files of killed
    writes, which are swept later."""
    store = Store(uri)
    manifest = store.manifest(FOLDER)
    for part in manifest.parts:
        data = store.read_bytes(FOLDER, part.file)
        assert (len(data), checksum_of(data)) == (part.bytes, part.checksum), part.file
    there = [name for name in store.objects.sizes("proxy") if "/." not in name]
    names = [re.sub(r"-lease-\d+", "", name) for name in there]
    return {part.file: part.checksum for part in manifest.parts}, sorted(names)


def resume_steps(uri):
    names = Store(uri).objects.sizes(f"{FOLDER}/resume")
    return [int(name.split("-")[1]) for name in names if name.endswith("manifest.json")]


@pytest.mark.parametrize(
    ("place", "world"),
    [("local", 1), ("s3", 1), pytest.param("s3", 2, marks=pytest.mark.soak)],
)
def test_killed_before_any_change(place, world, request, tmp_path):
    where = request.getfixturevalue("s3_uri") if place == "s3" else str(tmp_path / "run")
    log = str(tmp_path / "log")
    assert not attempt(f"{where}/whole", world, log)
    expected = contents(f"{where}/whole")
    assert list(expected[0]) == sorted(expected[0]) and len(expected[0]) >= 6
    points = [
        (who, number, name)
        for who in (*range(world), "driver")
        for number, name in enumerate(Path(f"{log}-{who}").read_text().split())
    ]
    told = " ".join(name for _, _, name in points)
    for what in ("checkpoint-000003/model", "resume/step-000004", "/manifest.json", "config.json"):
        assert what in told
    assert len(points) > 20
    row = TABLE[f"killed before an upload ({place}, {world})", "proxy"]
    for index, (who, number, name) in enumerate(points):
        uri = f"{where}/{index}"
        row.tried += 1
        assert attempt(uri, world, f"{log}-first", (who, number)), name
        kept = max(resume_steps(uri), default=0)
        second = f"{log}-second-{index}"
        assert not attempt(uri, world, second), name
        assert contents(uri) == expected, name
        saved = re.findall(r"step-0*(\d+)-lease-2/manifest", Path(f"{second}-0").read_text())
        later = [step for step in SAVES if step > kept]
        assert sorted({int(step) for step in saved}) == later, name
        row.survived += 1
