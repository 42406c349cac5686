"""Who owns a run directory: two at a time, dead owners, frozen ones; on disk and in a real S3."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from s2l_ray.errors import LeaseLost
from s2l_ray.store import Store, lease
from s2l_ray.store.lease import Lease

OWNER = """
import sys, time
from s2l_ray.store.lease import Lease
from s2l_ray.store import Store
store = Store(sys.argv[1])
lease = Lease(store, seconds=float(sys.argv[2]), job="raysubmit_1").take()
print("owns", store.epoch, flush=True)
for line in sys.stdin:  # commits on demand
    try:
        store.commit(line.strip(), "f", [], {})
        print("committed", flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
lease.release()
"""


@pytest.fixture(params=["local", "s3"])
def uri(request, tmp_path):
    return request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "run")


@pytest.fixture
def start(uri):
    """Owners in processes of their own; all are gone at the end."""
    processes = []

    def run(seconds):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, uri, str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


def says(process):
    return process.stdout.readline().strip()


def tell(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return says(process)


def test_of_two_at_one_moment_one_owns_and_the_other_is_told_whom(start):
    owners = [start(6) for _ in range(2)]
    winner = None
    while winner is None:
        for one in owners:
            if one.poll() is not None:
                winner = next(other for other in owners if other is not one)
                loser = one
        time.sleep(0.05)
    assert says(winner) == "owns 1"
    message = loser.stderr.read()
    assert "is in use by another run" in message
    assert f"job raysubmit_1, process {winner.pid}" in message and "since 20" in message
    assert tell(winner, "corpus/x") == "committed"


def test_a_killed_owner_of_this_machine_is_followed_at_once(start, uri):
    owner = start(60)
    assert says(owner) == "owns 1"
    owner.kill()
    owner.wait()
    began = time.monotonic()
    store = Store(uri)
    Lease(store, seconds=60).take().release()
    assert store.epoch == 2
    assert time.monotonic() - began < 20  # of 60


def test_a_dead_owner_elsewhere_is_followed_when_its_lease_is_over(uri, monkeypatch, caplog):
    store = Store(uri)
    dead = Lease(store, seconds=4)
    dead.record |= {"host": "elsewhere", "kernel": "another"}
    store.objects.create("lease/00000001.json", json.dumps(dead.record).encode())
    began = time.monotonic()
    after = Lease(store, seconds=4).take()
    assert 2 < time.monotonic() - began < 15
    assert store.epoch == 2
    assert "host elsewhere" in caplog.text
    after.release()


def test_a_released_lease_is_free(uri):
    for epoch in (1, 2, 3):
        store = Store(uri)
        taken = Lease(store, seconds=60).take()
        assert store.epoch == epoch
        taken.release()


def test_an_owner_that_froze_can_commit_nothing_when_it_wakes(start, uri, monkeypatch):
    frozen = start(4)
    assert says(frozen) == "owns 1"
    assert tell(frozen, "corpus/x") == "committed"
    os.kill(frozen.pid, signal.SIGSTOP)
    store = Store(uri)
    second = Lease(store, seconds=4).take()
    assert store.epoch == 2
    os.kill(frozen.pid, signal.SIGCONT)
    answer = tell(frozen, "tokens/x")
    assert answer.startswith("LeaseLost") and f"process {os.getpid()}" in answer
    assert store.manifest("tokens/x") is None
    store.commit("tokens/x", "g", [], {})
    time.sleep(2)  # the frozen one's renewals go to its own lease
    store.guard()
    second.release()


def test_a_run_that_was_not_followed_goes_on_after_its_lease(uri, monkeypatch):
    monkeypatch.setattr(lease, "RENEWALS", 0.001)  # renews long after it is over
    store = Store(uri)
    first = Lease(store, seconds=3).take()
    time.sleep(3.5)
    store.commit("corpus/x", "f", [], {})
    other = Store(uri)
    monkeypatch.setattr(lease, "is_dead_here", lambda owner: False)
    second = Lease(other, seconds=3).take()
    with pytest.raises(LeaseLost):
        store.commit("tokens/x", "f", [], {})
    second.release()
    first.release()
