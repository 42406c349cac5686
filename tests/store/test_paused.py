"""A process that is paused after it has checked its lease, while another takes over, overwrites
nothing of the other's: on disk and in a real S3, with real signals."""

import pytest
from support.owner import Owner, commit

from s2l_ray.store import Store, s3
from s2l_ray.store.checksums import checksum_of
from s2l_ray.store.lease import Lease

SECONDS = 0.4
LARGE = 70 << 20  # goes up in pieces


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def uri(request, tmp_path):
    return request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "run")


@pytest.fixture
def paused(uri):
    """An owner in a process of its own that stops in the next call with a `!`."""
    owner = Owner(uri, SECONDS)
    assert owner.says() == "owns 1"
    yield owner
    owner.kill()


def take(uri):
    store = Store(uri)
    return store, Lease(store, seconds=SECONDS).take()


@pytest.mark.parametrize("there", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_file_with_a_fixed_name(uri, paused, there):
    name = "report/index.html"
    if there:
        assert paused.ask("write_json", "old", name) == "done"
    paused.tell("!write_json", "of the paused one", name)
    paused.wait_until_stopped()
    store, lease = take(uri)
    store.write_json("of the new owner", name)
    paused.go_on()
    assert paused.says().startswith("LeaseLost")
    assert store.read_json(name) == "of the new owner"
    lease.release()


@pytest.mark.parametrize("size", [10, pytest.param(LARGE, marks=pytest.mark.slow)])
def test_a_file_of_a_checkpoint(uri, paused, tmp_path, size):
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    theirs.write_bytes(b"1" * size)
    mine.write_bytes(b"2" * size)
    assert size < s3.LARGE or size == LARGE
    name = "proxy/f/checkpoint-000005/model.safetensors"
    paused.tell("!put_file", str(theirs), name)
    paused.wait_until_stopped()
    store, lease = take(uri)
    store.put_file(mine, name)
    paused.go_on()
    assert paused.says().startswith("LeaseLost")
    assert store.read_bytes(name) == mine.read_bytes()
    lease.release()


def test_a_manifest_is_of_the_files_that_are_there(uri, paused):
    """Both have trained: the paused one's manifest may come first, but not stay."""
    name, folder = "checkpoint-000005/model.safetensors", "proxy/f"
    assert paused.ask("write_json", "theirs", folder, name) == "done"
    their_file = (name, 8, checksum_of(b'"theirs"'))
    paused.tell("!commit", folder, their_file)
    paused.wait_until_stopped()
    store, lease = take(uri)
    store.write_json("mine", folder, name)
    paused.go_on()
    said = paused.says()  # the manifest of a store that cannot tell its owner, or no manifest
    assert said == "done" if not store.is_local else said.startswith("LeaseLost")
    assert paused.ask("write_json", "more", folder, "x").startswith("LeaseLost")
    manifest = commit(store, folder, (name, 6, checksum_of(b'"mine"')))
    assert [part.checksum for part in manifest.parts] == [checksum_of(b'"mine"')]
    assert store.manifest(folder) == manifest and store.fault(manifest) is None
    lease.release()


def test_the_manifest_of_the_new_owner_stays(uri, paused):
    assert paused.ask("commit", "tokens/f") == "done"
    paused.tell("!set_aside", "tokens/f")
    paused.wait_until_stopped()
    store, lease = take(uri)
    store.set_aside("tokens/f")
    mine = store.commit("tokens/f", "f", [], {"by": "me"})
    paused.go_on()
    assert paused.says().startswith("LeaseLost")
    assert store.manifest("tokens/f") == mine
    lease.release()


def test_what_is_removed_after_a_commit(uri, paused):
    for number in range(3):
        assert paused.ask("write_json", number, "proxy/f/resume", f"{number}.json") == "done"
    local = Store(uri).is_local  # Ceph 16 deletes without conditions
    if local:
        paused.tell("!remove", "proxy/f/resume")
    else:
        paused.stop()
    paused.wait_until_stopped()
    store, lease = take(uri)
    if not local:
        paused.tell("remove", "proxy/f/resume")
    paused.go_on()
    assert paused.says().startswith("LeaseLost")
    assert len(store.names("proxy/f/resume")) == 3
    lease.release()


def test_in_a_folder_nobody_takes_over_in_the_middle_of_a_write(tmp_path):
    uri = str(tmp_path / "run")
    owner = Owner(uri, SECONDS)
    try:
        assert owner.says() == "owns 1"
        owner.tell("!!write_json", "of the paused one", "run.json")
        owner.wait_until_stopped()
        with pytest.raises(ValueError, match="paused in the middle of a write") as caught:
            take(uri)
        assert "kill -CONT" in str(caught.value)
        owner.go_on()
        assert owner.says() == "done"
        store, lease = take(uri)
        assert store.epoch == 2 and store.read_json("run.json") == "of the paused one"
        assert owner.ask("write_json", "more", "run.json").startswith("LeaseLost")
        lease.release()
    finally:
        owner.kill()
