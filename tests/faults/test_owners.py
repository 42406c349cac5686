"""Owners of a run directory that are paused past their lease while another takes over, and two that
start at once; on disk and in a real S3."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import faults, plain_run
from support.faults import ROUNDS, TABLE
from support.proxy import KINDS, Proxy

from s2l_ray.store import Store

pytestmark = pytest.mark.faults
SECONDS = 3  # of a lease, the shortest
TRIALS = 10 * ROUNDS
AT_ONCE = 5


class PlainRun:
    def __init__(self, uri):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.plain_run", uri, str(SECONDS)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def says(self):
        return self.process.stdout.readline().strip()

    def signal(self, number):
        os.kill(self.process.pid, number)

    def end(self):
        """The rest that it says."""
        said, _ = self.process.communicate(timeout=120)
        return said.strip().rpartition("\n")[2]


def trials(name, trial, place):
    """Run trials, some at once, and tell the TABLE; each returns whether it came about."""

    def one(number):
        began = time.monotonic()
        store = Store(place(number))
        while not trial(store, random.Random(f"{name} {number}")):
            number += TRIALS
            store = Store(place(number))
        row = TABLE[name, ""]
        row.tried += 1
        plain_run.check(store)
        row.survived += 1
        return time.monotonic() - began

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(one, range(TRIALS)):
            pass


def test_a_paused_owner_that_wakes_overwrites_nothing(place, request):
    def trial(store, draw):
        first = PlainRun(store.uri)
        assert first.says() == "owns 1"
        time.sleep(draw.uniform(0, 0.8))
        first.signal(signal.SIGSTOP)
        if first.process.poll() is not None:
            return False
        second = PlainRun(store.uri)
        assert second.says() == "owns 2"
        time.sleep(draw.uniform(0, 0.8))
        first.signal(signal.SIGCONT)
        assert second.end() == "finished"
        said = first.end()
        if said == "finished":  # it was stopped after its last change
            return False
        assert said.startswith("LeaseLost"), said
        return True

    trials(f"owner paused ({request.node.callspec.id})", trial, place)


def test_of_two_that_start_at_once_one_runs(place, request):
    def trial(store, draw):
        both = [PlainRun(store.uri) for _ in range(2)]
        said = sorted(each.end() for each in both)
        # The other one is refused, or finds all done if it first looks when that has ended.
        assert said[1] == "finished" and (
            said[0] == "finished" or said[0].startswith("ValueError run_dir: ")
        ), said
        return True

    trials(f"two at once ({request.node.callspec.id})", trial, place)


def test_owners_of_a_store_in_trouble(ceph, s3_uri, monkeypatch):
    """A request is sent again after its answer was lost: what it meets may be its own change."""
    proxy = Proxy(ceph.endpoint, dict.fromkeys(KINDS, 0.02), seed=1)  # a tenth of all requests
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)

    def trial(store, draw):
        first, second = PlainRun(store.uri), None
        said = first.says()
        assert said == "owns 1", said
        if draw.random() < 0.5:
            time.sleep(draw.uniform(0, 2))
            first.process.kill()
            second = PlainRun(store.uri)
        assert (second or first).end() == "finished"
        first.process.wait()
        return True

    trials("a tenth of requests fails", trial, lambda number: f"{s3_uri}/{number}")
    proxy.stop()
    assert all(proxy.counts[kind] > 3 for kind in KINDS), proxy.counts
    faults.REQUESTS.update(proxy.counts)
