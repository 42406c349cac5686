"""A node's temporary folder among several processes, some of them killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s2l_ray.store import scratch


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / f"s2l_ray-{os.getuid()}"


def start(code):
    command = [sys.executable, "-c", "from s2l_ray.store import scratch\n" + code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


COPY = """
import os, pathlib, time
def fetch(folder):
    print("fetched", flush=True)
    time.sleep(0.5)
    pathlib.Path(folder, "weights").write_text("w")
local = scratch.copy_of("key", fetch)
assert pathlib.Path(local, "weights").read_text() == "w"
print(local)
"""


def test_processes_of_a_node_fetch_a_copy_once(place):
    processes = [start(COPY) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(line.count("fetched") for line in said) == 1
    assert {line[-1] for line in said} == {str(place / "key")}
    assert sorted(path.name for path in place.iterdir()) == ["key", "key.lock"]


def test_what_a_killed_process_left_goes_when_the_next_one_comes(place):
    work = """
with scratch.working_folder() as folder:
    open(folder + "/moments", "w").close()
    print(folder, flush=True)
    input()
"""
    killed, alive = start(work), start(work)
    folders = [Path(process.stdout.readline().strip()) for process in (killed, alive)]
    assert all((folder / "moments").exists() for folder in folders)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    with scratch.working_folder() as own:
        assert not folders[0].exists() and (folders[1] / "moments").exists()
        assert Path(own).is_dir() and not any(Path(own).iterdir())
    alive.communicate("\n", timeout=60)
    assert not any(place.iterdir())


def test_a_fetch_that_fails_or_is_killed_leaves_no_copy(place):
    def fetch(folder):
        Path(folder, "half").touch()
        raise ConnectionError("away")

    with pytest.raises(ConnectionError, match="away"):
        scratch.copy_of("key", fetch)
    assert [path.name for path in place.iterdir()] == ["key.lock"]
    killed = start(COPY)
    assert killed.stdout.readline() == "fetched\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert [path for path in place.glob("work-*") if path.is_dir()]
    local = scratch.copy_of("key", lambda folder: Path(folder, "weights").touch())
    assert [path.name for path in Path(local).iterdir()] == ["weights"]
    assert not [path for path in place.glob("work-*") if path.is_dir()]


def test_a_folder_in_the_making_is_not_taken_for_a_dead_one_s(place, monkeypatch):
    lock = scratch.fcntl.flock

    def late(stream, how):
        if stream.name.endswith((".young", ".lock")) and not how & scratch.fcntl.LOCK_NB:
            scratch._drop_abandoned()  # another process comes between the file and its lock
        lock(stream, how)

    monkeypatch.setattr(scratch.fcntl, "flock", late)
    with scratch.working_folder() as folder:
        assert Path(folder).with_suffix(".lock").exists()
    assert not any(place.iterdir())


def test_a_copy_that_is_asked_for_just_now_stays(place):
    old = Path(scratch.copy_of("old", lambda folder: Path(folder, "weights").touch()))
    past = time.time() - scratch.KEPT - 1
    for path in (old, *old.iterdir()):
        os.utime(path, (past, past))
    with scratch._locked(place / "old.lock"):  # by a process that is about to load it
        scratch.copy_of("new", lambda folder: None)
    assert old.exists()
    scratch.copy_of("newer", lambda folder: None)
    assert not old.exists()


def test_copies_that_nobody_asks_for_go(place, monkeypatch):
    def copy(key):
        return Path(scratch.copy_of(key, lambda folder: Path(folder, "weights").touch()))

    old, used = copy("old"), copy("used")
    past = time.time() - scratch.KEPT - 1
    for path in (old, *old.iterdir(), used, *used.iterdir()):
        os.utime(path, (past, past))
    assert copy("used") == used and copy("new").exists()
    assert used.exists() and not old.exists()
    scratch.discard(str(used))
    scratch.discard(str(used))  # another process was first
    assert not used.exists() and not list(place.glob("work-*"))


# -- other users of the machine


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o750, 0o701])
def test_a_folder_that_others_can_enter_is_refused(place, mode):
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(ValueError, match=r"with mode 0700 \(drwx------\), got d.*set TMPDIR"):
        scratch.copy_of("key", lambda folder: pytest.fail("has been fetched"))
    place.chmod(0o700)
    assert Path(scratch.copy_of("key", lambda folder: None)).is_dir()


def test_a_folder_of_another_user_is_refused(place, monkeypatch):
    place.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(place, 12345, 12345)
    else:  # ask as if this were another user
        owner = os.getuid()
        monkeypatch.setattr(scratch.os, "getuid", lambda: owner + 1)
        place.rename(place.with_name(f"s2l_ray-{owner + 1}"))
    with pytest.raises(ValueError, match="got drwx------ of the user"), scratch.working_folder():
        pytest.fail("has been made")


def test_a_link_in_place_of_the_folder_is_refused(place):
    elsewhere = place.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    place.symlink_to(elsewhere)
    with pytest.raises(ValueError, match="got lrwxrwxrwx of the user"):
        scratch.copy_of("key", lambda folder: pytest.fail("has been fetched"))
    place.unlink()
    place.write_text("a file")
    with pytest.raises(ValueError, match="got -rw"):
        scratch.copy_of("key", lambda folder: pytest.fail("has been fetched"))


def test_a_lock_is_no_way_to_a_file_elsewhere(place):
    place.mkdir(mode=0o700)
    precious = place.with_name("precious")
    precious.write_text("precious")
    (place / "key.lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        scratch.copy_of("key", lambda folder: pytest.fail("has been fetched"))
    (place / "work-1.lock").symlink_to(precious)
    scratch._drop_abandoned()
    assert precious.read_text() == "precious"


def test_the_folder_is_this_users_alone_whatever_the_umask(place):
    before = os.umask(0)
    try:
        with scratch.working_folder() as folder:
            assert place.stat().st_mode & 0o777 == 0o700
            locks = list(place.glob("*.lock"))
            assert locks and all(lock.stat().st_mode & 0o777 == 0o600 for lock in locks)
            assert Path(folder).is_dir()
    finally:
        os.umask(before)
