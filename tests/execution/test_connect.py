"""The driver's connection to Ray."""

import os
import socket
import subprocess
import sys

import pytest
from support.head import REPOSITORY, environment

from s2l_ray.config import StorageConfig
from s2l_ray.execution import connect
from s2l_ray.execution.connect import DRIVER_ENVIRONMENT, WORKER_ENVIRONMENT, _address

PROGRAM = """
import os
import psutil
import ray
from s2l_ray.execution.connect import connect

connect()
ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
print({at.laddr.ip for each in ours for at in each.net_connections() if at.status == "LISTEN"})
commands = [each.cmdline() for each in ours[1:]]
print([" ".join(one) for one in commands])
print(dict(os.environ))
print(ray.get(ray.remote(lambda: dict(os.environ)).remote()))
"""
DATASET = """
import os
import threading
import ray
from s2l_ray.execution.connect import connect

connect()
del os.environ["RAY_USAGE_STATS_ENABLED"]  # "0" of a Ray that is started here, not of a cluster
ray.data.range(10).materialize()
print([thread.name for thread in threading.enumerate()])
"""


def test_a_local_ray_is_small_and_alone_and_its_workers_have_their_environment(tmp_ray):
    given = environment(RAY_TMPDIR=str(tmp_ray), GOMP_SPINCOUNT="7")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=given, text=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [eval(line) for line in done.stdout.splitlines()[-4:]]
    listening, commands, of_driver, of_worker = found
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert any("raylet/raylet" in command for command in commands)
    for name in ("dashboard.py", "log_monitor.py", "monitor.py"):
        assert not any(f"/{name} " in command for command in commands)
    assert of_driver["GOMP_SPINCOUNT"] == "7"
    assert not {*WORKER_ENVIRONMENT} - {"GOMP_SPINCOUNT", *os.environ} & {*of_driver}
    assert WORKER_ENVIRONMENT.items() <= of_worker.items()


@pytest.mark.slow
def test_no_thread_of_a_finished_dataset_is_left_to_meet_the_end_of_ray(tmp_ray):
    """One that lets go of an object while Ray shuts down ends the process with status 1."""
    given = environment(RAY_TMPDIR=str(tmp_ray))
    for name in DRIVER_ENVIRONMENT:
        del given[name]
    done = subprocess.run(
        [sys.executable, "-c", DATASET], cwd=REPOSITORY, env=given, text=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = eval(done.stdout.splitlines()[-1])
    assert "MainThread" in names
    assert not [name for name in names if "data" in name.lower()]


# -- the note that `ray start` leaves for all users of the machine


@pytest.fixture
def note(tmp_path, monkeypatch):
    """A note with the address of somebody who listens."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    found = tmp_path / "ray/ray_current_cluster"
    found.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        found.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        yield found


def test_the_note_of_this_user_is_followed(note):
    assert _address(None) == _address("") == _address("auto") == note.read_text().strip()
    assert _address("local") == "local"


def test_the_note_of_another_user_is_not_followed(note, caplog, monkeypatch):
    if os.getuid() == 0:
        os.chown(note, 12345, 12345)
    else:  # ask as if this were another user
        other = os.getuid() + 1
        monkeypatch.setattr("s2l_ray.execution.connect.os.getuid", lambda: other)
    assert _address(None) == "local"
    [line] = caplog.messages
    assert str(note) in line and "got -rw" in line and "set RAY_ADDRESS to its host:port" in line
    with pytest.raises(ConnectionError, match="expected a file that only the user"):
        _address("auto")
    # Who knows the address may join it.
    assert _address(note.read_text().strip()) == note.read_text().strip()


def test_a_pipe_in_its_place_is_not_waited_for(note):
    note.unlink()
    os.mkfifo(note)
    assert _address(None) == "local"


def test_a_note_that_anybody_can_write_is_not_followed(note, caplog):
    note.chmod(0o666)
    assert _address(None) == "local" and "got -rw-rw-rw-" in caplog.text


def test_a_note_that_is_a_link_is_not_followed(note, caplog):
    real = note.rename(note.with_name("real"))
    note.symlink_to(real)
    assert _address(None) == "local" and "symbolic links" in caplog.text
    note.unlink()
    assert _address(None) == "local" and len(caplog.messages) == 1  # there is none
    note.write_bytes(b"\xff\xfe")
    assert _address(None) == "local" and "cannot be read" in caplog.text


@pytest.fixture
def apart(monkeypatch):
    """No Ray, and a connection that only says with what settings it was asked for."""
    asked, there = [], []

    def begin(storage):
        asked.append(storage)
        there.append(True)

    monkeypatch.setattr(connect, "_connect", begin)
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: bool(there))
    yield asked
    connect.forget()


def test_checks_wait_until_something_needs_ray(apart):
    made, storage = [], StorageConfig()
    connect.expect(storage)
    connect.when_connected(lambda: made.append("memory"))
    connect.when_connected(lambda: made.append("sandbox"))
    assert made == apart == []
    connect.connect()
    assert made == ["memory", "sandbox"] and apart == [storage]
    connect.when_connected(lambda: made.append("at once"))
    connect.connect()
    assert made == ["memory", "sandbox", "at once"] and apart == [storage]


def test_a_run_that_is_put_together_by_hand_connects_to_nothing(apart):
    connect.connect_as_expected()
    assert apart == []
    storage = StorageConfig()
    connect.expect(storage)
    connect.connect_as_expected()
    assert apart == [storage]


def test_what_waits_for_ray_is_dropped_with_its_run(apart):
    connect.expect(StorageConfig())
    connect.when_connected(lambda: pytest.fail("the run is over"))
    connect.forget()
    connect.connect()
    assert apart == [None]
