"""Drivers on 600 rows that are paused past their lease while another takes over, and two that start
at once; each with a Ray of its own, on disk and in a real S3."""

import itertools
import shutil
import signal
import subprocess
import tempfile

import pytest
from support import faults
from support.ceph import wait_for
from support.faults import ROUNDS, TABLE, Command

from s2l_ray.store import Store
from s2l_ray.store.owner import newest_lease

pytestmark = [pytest.mark.faults, pytest.mark.soak]  # of minutes each
SECONDS = 3  # of a lease, the shortest
PAUSED = 4 * ROUNDS
SELECT = faults.STAGES[:7]  # the stages of jobs/select.py


class Drivers:
    """Drivers of one configuration on one run directory, each in a process of its own."""

    def __init__(self, folder, run_dir, corpus):
        self.folder, self.commands, self.places = folder, [], []
        self.config = faults.settings(run_dir, corpus, lease_seconds=SECONDS)
        self.config["proxy"]["max_steps"] = 60
        self.store = Store(run_dir)

    def start(self):
        own = self.folder / f"driver-{len(self.commands)}"
        own.mkdir(parents=True)
        self.places.append(tempfile.mkdtemp(prefix="s2l", dir="/tmp"))  # short: of sockets
        command = Command(own, self.config, {"RAY_TMPDIR": self.places[-1]})
        command.start()
        self.commands.append(command)
        return command

    def wait_for_owner(self, number):
        wait_for(lambda: newest_lease(self.store) >= number, seconds=120)

    def stop(self):
        for command in self.commands:
            if command.process.poll() is None:
                command.process.send_signal(signal.SIGCONT)
                command.kill_driver()
        for place in self.places:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def drivers(place, tmp_path):
    """Makes Drivers; all are gone at the end."""
    made = []
    faults.write_corpus(tmp_path / "corpus.jsonl", count=600)

    def make(name):
        made.append(Drivers(tmp_path / name, place(name), tmp_path / "corpus.jsonl"))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def ended(command):
    """The exit code of a driver, and what it wrote."""
    return command.process.wait(faults.LIMIT), command.log.read_text()


def lasts(command, seconds):
    """Whether a driver still runs after so many seconds."""
    try:
        command.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def selected_alone(here):
    code, log = ended(here.start())
    assert code == 0, log
    return faults.selected(here.store)


def pass_on(here, draw, most):
    """Pause the owner at a random moment, let another take over, and let the first one wake up;
    again and again. Return the stages in which owners were paused, when the run has ended."""
    owner, stages = here.start(), []
    here.wait_for_owner(1)
    for number in itertools.count(2):
        if len(stages) == most or not lasts(owner, draw.uniform(0, 10)):
            break
        stage = owner.stage()
        if stage not in SELECT:  # the last one has ended, the command has not
            stage = SELECT[-1]
        owner.process.send_signal(signal.SIGSTOP)
        paused, owner = owner, here.start()
        here.wait_for_owner(number)
        lasts(owner, draw.uniform(0, 4))
        paused.process.send_signal(signal.SIGCONT)
        code, log = ended(paused)
        if code != 0:  # otherwise it had ended before
            assert "taken over by another run" in log, log
            stages.append(stage)
    code, log = ended(owner)
    assert code == 0, log
    return stages


def test_paused_drivers_overwrite_nothing(drivers, draw, request):
    expected, count = selected_alone(drivers("alone")), 0
    for number in itertools.count():
        if count >= PAUSED:
            break
        here = drivers(f"run-{number}")
        stages = pass_on(here, draw, PAUSED - count)
        rows = [TABLE[f"driver paused ({request.node.callspec.id})", each] for each in stages]
        for row in rows:
            row.tried += 1
        faults.check(here.store)
        assert faults.selected(here.store) == expected
        for row in rows:
            row.survived += 1
        count += len(stages)


def test_of_two_drivers_that_start_at_once_one_runs(drivers, request):
    expected = selected_alone(drivers("alone"))
    row = TABLE[f"two drivers at once ({request.node.callspec.id})", ""]
    for number in range(ROUNDS):
        here = drivers(f"run-{number}")
        row.tried += 1
        ends = sorted(ended(command) for command in [here.start(), here.start()])
        assert ends[0][0] == 0 and ends[1][0] != 0, ends
        assert "is in use by another run" in ends[1][1]
        faults.check(here.store)
        assert faults.selected(here.store) == expected
        row.survived += 1
