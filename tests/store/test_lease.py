"""Who owns a run directory: two at a time, dead owners, frozen ones; on disk and in a real S3."""

import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from support.owner import Owner

from s2l_ray.errors import LeaseLost
from s2l_ray.store import Store, lease
from s2l_ray.store.lease import Lease


@pytest.fixture(params=["local", "s3"])
def uri(request, tmp_path):
    return request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "run")


@pytest.fixture
def start(uri):
    """Owners in processes of their own; all are gone at the end."""
    owners = []

    def run(seconds):
        owners.append(Owner(uri, seconds))
        return owners[-1]

    yield run
    for owner in owners:
        owner.kill()


def test_of_two_at_one_moment_one_owns_and_the_other_is_told_whom(start):
    owners = [start(6) for _ in range(2)]
    winner = None
    while winner is None:
        for one in owners:
            if one.process.poll() is not None:
                winner = next(other for other in owners if other is not one)
                loser = one
        time.sleep(0.05)
    assert winner.says() == "owns 1"
    message = loser.process.stderr.read()
    assert "is in use by another run" in message
    assert f"job raysubmit_1, process {winner.pid}" in message and "since 20" in message
    assert winner.ask("commit", "corpus/x") == "done"


def test_a_killed_owner_of_this_machine_is_followed_at_once(start, uri):
    owner = start(60)
    assert owner.says() == "owns 1"
    owner.kill()
    began = time.monotonic()
    store = Store(uri)
    Lease(store, seconds=60).take().release()
    assert store.epoch == 2
    assert time.monotonic() - began < 20  # of 60


def test_a_dead_owner_elsewhere_is_followed_when_its_lease_is_over(uri, monkeypatch, caplog):
    store = Store(uri)
    dead = Lease(store, seconds=1.5)
    dead.record |= {"host": "elsewhere", "kernel": "another"}
    store.objects.create("lease/00000001.json", json.dumps(dead.record).encode())
    began = time.monotonic()
    after = Lease(store, seconds=1.5).take()
    assert 0.5 < time.monotonic() - began < 15
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
    frozen = start(1.5)
    assert frozen.says() == "owns 1"
    assert frozen.ask("commit", "corpus/x") == "done"
    frozen.stop()
    store = Store(uri)
    second = Lease(store, seconds=1.5).take()
    assert store.epoch == 2
    frozen.go_on()
    answer = frozen.ask("commit", "tokens/x")
    assert answer.startswith("LeaseLost") and f"process {os.getpid()}" in answer
    assert store.manifest("tokens/x") is None
    store.commit("tokens/x", "g", [], {})
    time.sleep(0.7)  # the frozen one's renewals go to its own lease
    store.guard()
    second.release()


def test_a_run_that_was_not_followed_goes_on_after_its_lease(uri, monkeypatch):
    monkeypatch.setattr(lease, "RENEWALS", 0.001)  # renews long after it is over
    store = Store(uri)
    first = Lease(store, seconds=1).take()
    time.sleep(1.2)
    store.commit("corpus/x", "f", [], {})
    other = Store(uri)
    monkeypatch.setattr(lease, "is_dead_here", lambda owner: False)
    second = Lease(other, seconds=1).take()
    with pytest.raises(LeaseLost):
        store.commit("tokens/x", "f", [], {})
    second.release()
    first.release()


# ---- what lies in the folder


def record(store, **more):
    """A lease's file, of an owner elsewhere."""
    return json.dumps(
        Lease(store, seconds=more.pop("seconds", 3)).record
        | {"host": "elsewhere", "kernel": "another"}
        | more
    ).encode()


@pytest.mark.parametrize(
    "name",
    ["notes.json", "00000009.json.bak", "00000009 (copy).json", ".00000009.json.3f2a", "9.json",
     "\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661.json", "00000009.json~", "x/00000009.json"],
)  # fmt: skip
def test_other_files_beside_leases_mean_nothing(store, name):
    store.write_bytes(b"?", "lease", name)
    taken = Lease(store, seconds=60).take()
    assert store.epoch == 1
    store.commit("corpus/x", "f", [], {})
    taken.release()


DAMAGED = [
    (b"", "an empty file"),
    (b" \n", "an empty file"),
    (b"{}", "no 'owner'"),
    (b"[]", "found '[]'"),
    (b"null", "found 'None'"),
    (b'{"owner": ', "not JSON"),
    (b"\xff\xfe\x00{}", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    ({"pid": "1"}, "pid: expected int, found '1'"),
    ({"pid": -1}, "pid: expected the number of a process, found -1"),
    ({"pid": 2**70}, "pid: expected the number of a process"),
    ({"pid": True}, "pid: expected int, found 'True'"),
    ({"seconds": "60"}, "seconds: expected int, found '60'"),
    ({"seconds": float("nan")}, "seconds: expected a number above 0, found nan"),
    ({"seconds": -3}, "seconds: expected a number above 0, found -3"),
    ({"released": "no"}, "released: expected bool, found 'no'"),
    ({"kernel": 5}, "kernel: expected str, found '5'"),
    ({"host": None}, "host: expected str, found 'None'"),
    ({"run": []}, "run: expected dict, found '[]'"),
]


@pytest.mark.parametrize(("content", "what"), DAMAGED, ids=[what for _, what in DAMAGED])
def test_a_damaged_lease_holds_nobody_up_for_long(store, monkeypatch, caplog, content, what):
    monkeypatch.setattr(lease, "UNKNOWN", 0.2)
    if isinstance(content, dict):
        content = record(store, **content)
    store.write_bytes(content, "lease", "00000007.json")
    began = time.monotonic()
    taken = Lease(store, seconds=0.1).take()
    assert 0.1 < time.monotonic() - began < 5
    assert store.epoch == 8
    [told] = [each.getMessage() for each in caplog.records]
    assert f"{store.uri}/lease/00000007.json is damaged" in told and what in told
    assert f"remove {store.uri}/lease/00000007.json to go on at once" in told
    store.commit("corpus/x", "f", [], {})
    taken.release()


def test_a_damaged_lease_that_is_removed_is_waited_for_no_longer(store, caplog):
    store.write_bytes(b"", "lease", "00000001.json")
    began = time.monotonic()
    threading.Timer(0.5, lambda: store.remove("lease", "00000001.json")).start()
    Lease(store, seconds=3).take().release()
    assert time.monotonic() - began < 5  # of 60
    assert "waiting up to 60 s for a sign of life" in caplog.text


def test_an_owner_writes_its_damaged_lease_again(start, uri):
    owner = start(1)
    assert owner.says() == "owns 1"
    store = Store(uri)
    store.objects.write("lease/00000001.json", b"")
    assert owner.ask("commit", "corpus/x") == "done"
    with pytest.raises(ValueError, match=f"in use by another run .*process {owner.pid}"):
        Lease(store, seconds=3).take()
    assert store.read_json("lease/00000001.json")["pid"] == owner.pid


def test_a_follower_with_a_damaged_lease_is_still_one(store):
    first = Lease(store, seconds=60).take()
    store.objects.write("lease/00000002.json", b"{")
    with pytest.raises(LeaseLost, match=r"whose lease, 00000002.json, is damaged"):
        store.commit("corpus/x", "f", [], {})
    first.release()


# ---- clocks


def dated(store, seconds):
    """Set the time of writing of all leases, from now on."""
    for path in Path(store.address("lease")).glob("0*.json"):
        os.utime(path, (time.time() + seconds,) * 2)


@pytest.mark.parametrize("ahead", [86400, 0.0])
def test_a_dead_owner_is_waited_for_as_long_as_its_lease(store, caplog, monkeypatch, ahead):
    """Whatever the clock of the storage says; a day ahead was a day of waiting."""
    monkeypatch.setattr(lease, "TOLD", 0.4)
    store.write_bytes(record(store, seconds=1.5), "lease", "00000001.json")
    dated(store, ahead)
    began = time.monotonic()
    Lease(store, seconds=1).take().release()
    assert 1.4 < time.monotonic() - began < 3
    first, *more = re.findall(r"waiting up to (\d+) s|yet, (\d+) s left", caplog.text)
    left = [int(first[0]), *(int(each[1]) for each in more)]
    assert len(left) >= 3 and left == sorted(left, reverse=True) and left[0] <= 2


def test_a_lease_that_is_long_over_is_watched_for_a_third_of_it(store):
    store.write_bytes(record(store, seconds=3), "lease", "00000001.json")
    dated(store, -86400)
    began = time.monotonic()
    Lease(store, seconds=1).take().release()
    assert 0.9 < time.monotonic() - began < 2.5  # not 3


def test_an_owner_that_is_alive_is_not_followed_whatever_its_clock_says(start, uri, monkeypatch):
    owner = start(2)
    assert owner.says() == "owns 1"
    store = Store(uri)
    for age in (86400.0, -86400.0):  # its clock is a day behind this machine's, or ahead
        monkeypatch.setattr(type(store.objects), "age", lambda self, name, age=age: age)
        with pytest.raises(ValueError, match=f"in use by another run .*process {owner.pid}"):
            Lease(store, seconds=2).take()
    assert owner.ask("commit", "corpus/x") == "done"


def test_a_lease_of_years_is_waited_for_an_hour(store, monkeypatch):
    monkeypatch.setattr(lease, "LONGEST_LEASE", 0.5)
    store.write_bytes(record(store, seconds=1e9), "lease", "00000001.json")
    began = time.monotonic()
    Lease(store, seconds=1).take().release()
    assert time.monotonic() - began < 5


# ---- leases that are removed


def test_the_owner_notices_that_its_lease_was_removed(start, uri):
    owner = start(1)
    assert owner.says() == "owns 1"
    store = Store(uri)
    store.remove("lease")
    answer = owner.ask("commit", "corpus/x")
    assert answer.startswith("LeaseLost") and "lease/00000001.json: missing" in answer
    assert "Start it again" in answer
    time.sleep(0.5)  # its renewals do not bring it back
    assert store.manifest("corpus/x") is None and store.names("lease") == []


def test_nor_does_it_take_the_lease_of_the_next_for_its_own(start, uri):
    owner = start(1)
    assert owner.says() == "owns 1"
    store = Store(uri)
    store.remove("lease")
    next_one = Lease(store, seconds=60).take()
    assert store.epoch == 1  # the same number
    answer = owner.ask("write_json", {}, "run.json")
    assert answer.startswith("LeaseLost") and f"process {os.getpid()}" in answer
    time.sleep(0.5)
    assert store.read_json("lease/00000001.json")["pid"] == os.getpid()
    assert not store.exists("run.json")
    store.commit("corpus/x", "f", [], {})
    next_one.release()
    assert store.read_json("lease/00000001.json")["released"]


def test_a_removed_folder_of_leases_is_not_needed_by_the_next(store):
    first = Lease(store, seconds=60).take()
    shutil.rmtree(store.address("lease"))
    other = Store(store.uri)
    second = Lease(other, seconds=60).take()
    with pytest.raises(LeaseLost, match="another run has begun"):
        store.guard()
    first.release()
    other.guard()
    second.release()
