"""Parts, manifests and folders, on a local path and in a real S3 bucket."""

import errno
import json
import multiprocessing
import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support.ceph import KMS_KEY
from support.proxy import Proxy
from urllib3.exceptions import SSLError

from s2l_ray.config import StorageConfig
from s2l_ray.errors import Damaged, StorageError
from s2l_ray.store import Store
from s2l_ray.store.checksums import checksum_of_file, checksum_of_folder
from s2l_ray.store.manifest import FORMAT
from s2l_ray.store.objects import ABANDONED, LocalObjects
from s2l_ray.store.s3 import S3Objects

TABLE = pa.table({"example_id": [1, 2, 3], "loss": [0.5, 1.5, 2.5]})


@pytest.fixture(params=["local", "s3"])
def any_store(request, tmp_path):
    if request.param == "s3":
        return Store(request.getfixturevalue("s3_uri"))
    return Store(tmp_path / "run")


def damage(store, folder, part, change):
    data = bytearray(store.read_bytes(folder, part.file))
    store.write_bytes(bytes(change(data)), folder, part.file)


def flip(data):
    data[len(data) // 2] ^= 1
    return data


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_parts_come_back_as_they_were_written(any_store, suffix):
    part = any_store.write_part(TABLE, "losses/f", "part-0", suffix=suffix, stats={"seconds": 2})
    assert part.file == f"part-0-{part.checksum}.{suffix}"
    assert (part.rows, part.stats) == (3, {"seconds": 2})
    assert part.bytes == len(any_store.read_bytes("losses/f", part.file))
    assert any_store.read_part("losses/f", part).equals(TABLE)
    some = any_store.read_part("losses/f", part, ["loss"])
    assert some.to_pydict() == {"loss": [0.5, 1.5, 2.5]}
    # The same rows are the same file.
    assert any_store.write_part(TABLE, "losses/f", "part-0", suffix=suffix,
                                stats={"seconds": 2}) == part  # fmt: skip
    assert any_store.names("losses/f") == [part.file]


@pytest.mark.parametrize("change", [flip, lambda data: data[:-9], lambda data: b""])
def test_a_damaged_part_is_refused_with_names_and_numbers(any_store, change):
    part = any_store.write_part(TABLE, "losses/f", "part-0")
    damage(any_store, "losses/f", part, change)
    with pytest.raises(ValueError) as refusal:
        any_store.read_part("losses/f", part)
    left = len(any_store.read_bytes("losses/f", part.file))
    message = str(refusal.value)
    assert any_store.address("losses/f", part.file) in message
    assert f"expected {part.bytes} bytes with checksum {part.checksum}, got {left} with" in message


def test_a_missing_part_is_refused_with_its_name(any_store):
    part = any_store.write_part(TABLE, "losses/f", "part-0")
    missing = part.__class__(**(part.__dict__ | {"file": "part-1-0123456789abcdef.arrow"}))
    with pytest.raises(ValueError, match=r"part-1-0123456789abcdef\.arrow: missing"):
        any_store.read_part("losses/f", missing)


def test_a_stage_is_finished_by_its_manifest(any_store):
    assert any_store.manifest("losses/f") is None
    parts = [any_store.write_part(TABLE, "losses/f", f"part-{i}") for i in (1, 0)]
    assert any_store.manifest("losses/f") is None
    any_store.write_part(TABLE.slice(1), "losses/f", "part-0")  # an unlisted try
    any_store.write_bytes(b"junk", "losses/f", "part-2.arrow")
    committed = any_store.commit("losses/f", "abc", parts, {"steps": [1, 2], "name": "Zoë"})
    assert committed == any_store.manifest("losses/f")
    assert [part.unit for part in committed.parts] == ["part-0", "part-1"]
    assert committed.parts == parts[::-1]
    assert (committed.rows, committed.fingerprint) == (6, "abc")
    assert committed.info == {"steps": [1, 2], "name": "Zoë"}
    written = any_store.read_json("losses/f", "manifest.json")
    assert (written["format"], written["stage"]) == (FORMAT, "losses/f")
    with pytest.raises(AssertionError, match="a unit committed twice"):
        any_store.commit("losses/g", "abc", [parts[0], parts[0]], {})


def test_the_first_commit_stands(any_store):
    first = any_store.commit("clusters/f", "abc", [], {"by": "first"})
    part = any_store.write_part(TABLE, "clusters/f", "part-0")
    assert any_store.commit("clusters/f", "abc", [part], {"by": "second"}) == first
    assert any_store.manifest("clusters/f").info == {"by": "first"}


def _commit(uri, barrier, number, results):
    store = Store(uri)
    barrier.wait()
    results.put((number, store.commit("clusters/f", "abc", [], {"by": number}).info["by"]))


def test_of_commits_that_race_one_wins_and_all_are_told(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    racers = [
        context.Process(target=_commit, args=(str(tmp_path), barrier, number, results))
        for number in range(8)
    ]
    for racer in racers:
        racer.start()
    told = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    winner = Store(tmp_path).manifest("clusters/f").info["by"]
    assert {by for _, by in told} == {winner}
    assert os.listdir(tmp_path / "clusters/f") == ["manifest.json"]  # no temporary files


def test_a_newer_format_and_a_damaged_manifest_are_refused(any_store):
    any_store.commit("losses/f", "abc", [], {})
    data = any_store.read_json("losses/f", "manifest.json")
    any_store.write_json(data | {"format": FORMAT + 1}, "losses/f", "manifest.json")
    with pytest.raises(ValueError, match=rf"manifest\.json: format {FORMAT + 1} is newer than"):
        any_store.manifest("losses/f")
    for content in (b"{", b"[]", b"{}", json.dumps(data | {"parts": [{"unit": 1}]}).encode()):
        any_store.write_bytes(content, "losses/f", "manifest.json")
        with pytest.raises(ValueError, match=r"losses/f/manifest\.json: damaged"):
            any_store.manifest("losses/f")


def test_found_parts_are_the_whole_ones_with_their_stats(any_store):
    assert any_store.found("losses/f") == {}
    good = any_store.write_part(TABLE, "losses/f", "step-1/part-0", stats={"seconds": 0.25})
    table = any_store.write_part(TABLE, "losses/f", "step-1/part-1", suffix="parquet")
    for number, change in ((2, flip), (3, lambda data: data[:-1]), (4, lambda data: b"")):
        part = any_store.write_part(TABLE, "losses/f", f"step-1/part-{number}")
        damage(any_store, "losses/f", part, change)
    any_store.write_bytes(b"", "losses/f", ".part-5-0123456789abcdef.arrow.3f")  # half written
    any_store.write_bytes(b"x", "losses/f", "part-6-0123456789abcdef.arrow")
    any_store.write_bytes(b"x", "losses/f", "centers.arrow")
    names = any_store.found("losses/f")
    assert {"step-1/part-0", "step-1/part-1", "step-1/part-2", "part-6"} <= set(names)
    parts = {unit: any_store.found_part("losses/f", name) for unit, name in names.items()}
    whole = {unit: part for unit, part in parts.items() if part}
    assert whole == {"step-1/part-0": good, "step-1/part-1": table}
    assert whole["step-1/part-0"].stats == {"seconds": 0.25}
    assert any_store.read_part("losses/f", whole["step-1/part-1"]).equals(TABLE)
    assert any_store.found_part("losses/f", "part-9-0123456789abcdef.arrow") is None


def test_a_write_replaces_a_file_whole(any_store, monkeypatch):
    any_store.write_json({"a": 1}, "run.json")
    any_store.write_json({"a": "ü"}, "run.json")
    assert any_store.read_json("run.json") == {"a": "ü"}
    assert any_store.names() == ["run.json"]
    if any_store.is_local:  # the disk is full, or the process dies, before all is written

        def fail(*_):
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space"):
            any_store.write_json({"a": 2}, "run.json")
        assert any_store.read_json("run.json") == {"a": "ü"}


def test_a_store_that_keeps_less_than_it_was_given_is_found_out_at_the_commit(any_store):
    part = any_store.write_part(TABLE, "losses/f", "part-0")
    damage(any_store, "losses/f", part, lambda data: data[:-1])
    with pytest.raises(OSError, match=rf"part-0.*{part.bytes - 1} bytes, .* {part.bytes} bytes"):
        any_store.commit("losses/f", "abc", [part], {})
    assert any_store.manifest("losses/f") is None


def test_a_damaged_stage_is_named_and_can_be_set_aside(any_store):
    parts = [any_store.write_part(TABLE, "losses/f", f"part-{i}") for i in range(2)]
    manifest = any_store.commit("losses/f", "abc", parts, {})
    assert any_store.fault(manifest) is None
    damage(any_store, "losses/f", parts[1], lambda data: data[:5])
    assert f"{parts[1].file}: 5 bytes" in any_store.fault(manifest)
    any_store.remove("losses/f", parts[1].file)
    assert f"{parts[1].file}: missing" in any_store.fault(manifest)
    any_store.set_aside("losses/f")
    assert any_store.manifest("losses/f") is None
    assert any_store.found_part("losses/f", parts[0].file) == parts[0]


def test_a_damaged_checkpoint_is_not_loaded(any_store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(100))
    files = any_store.upload(model, "proxy/f", "checkpoint-000001")
    parts = [replace(file, file=f"checkpoint-000001/{file.file}") for file in files]
    any_store.commit("proxy/f", "abc", parts, {})
    assert Path(any_store.download("proxy/f", "checkpoint-000001"), "config.json").exists()
    any_store.write_bytes(bytes(99) + b"1", "proxy/f/checkpoint-000001/model.safetensors")
    with pytest.raises(Damaged, match=r"checkpoint-000001/model\.safetensors: damaged") as damage:
        Store(any_store.uri, epoch=7).download("proxy/f", "checkpoint-000001")
    assert damage.value.folder == "proxy/f"
    again = pickle.loads(pickle.dumps(damage.value))
    assert (str(again), again.folder) == (str(damage.value), "proxy/f")


def test_a_node_fetches_and_verifies_some_files_once(any_store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = tmp_path / "model"
    model.mkdir()
    for name in ("0.bin", "1.bin"):
        (model / name).write_bytes(bytes(100))
    parts = {part.file: part for part in any_store.upload(model, "proxy/resume/step-1")}
    first, verified = {"0.bin": parts["0.bin"]}, []

    def checksum(file):
        verified.append(file.name)
        return checksum_of_file(file)

    monkeypatch.setattr("s2l_ray.store.folders.checksum_of_file", checksum)
    for _ in range(2):  # workers of one node
        store = Store(any_store.uri, epoch=3)
        local = Path(store.download("proxy/resume/step-1", files=first))
        assert store.is_local or [file.name for file in local.iterdir()] == ["0.bin"]
    assert verified == ["0.bin"]
    any_store.write_bytes(bytes(99) + b"1", "proxy/resume/step-1/0.bin")
    with pytest.raises(Damaged, match=r"step-1/0\.bin: damaged") as damage:
        Store(any_store.uri, epoch=4).download("proxy/resume/step-1", files=first, stage="proxy")
    assert damage.value.folder == "proxy"


def test_folders_go_up_and_come_down(any_store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    model = tmp_path / "model"
    model.mkdir()
    for name, content in (("config.json", "{}"), ("a.bin", "aaa"), ("z.bin", "zz")):
        (model / name).write_text(content)
    (model / "sub").mkdir()  # not uploaded
    listed = any_store.upload(model, "proxy", "checkpoint-1")
    assert [file.file for file in listed] == ["a.bin", "config.json", "z.bin"]
    assert [file.bytes for file in listed] == [3, 2, 2]
    part = any_store.write_part(TABLE, "losses/f", "part-0")  # checksums are those of parts
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x").write_bytes(any_store.read_bytes("losses/f", part.file))
    assert any_store.upload(tmp_path / "p", "q")[0].checksum == part.checksum
    assert any_store.names("proxy", "checkpoint-1") == ["a.bin", "config.json", "z.bin"]

    local = Path(any_store.download("proxy", "checkpoint-1"))
    assert {f.name: f.read_text() for f in local.iterdir()} == {
        "config.json": "{}", "a.bin": "aaa", "z.bin": "zz",
    }  # fmt: skip
    assert any_store.download("proxy", "checkpoint-1") == str(local)
    # A new run at the same address does not get a copy of the old one.
    any_store.remove("proxy")
    any_store.remove("proxy")
    assert not any_store.exists("proxy", "checkpoint-1")
    (model / "a.bin").write_text("bbbb")
    any_store.upload(model, "proxy", "checkpoint-1")
    new = Path(any_store.download("proxy", "checkpoint-1"))
    assert (new / "a.bin").read_text() == "bbbb"

    # A node keeps its copies for a while after they were last asked for.
    if any_store.is_local:
        any_store.discard(str(new))
        assert new.exists()
        return
    for path in (local, *local.iterdir(), new, *new.iterdir()):
        os.utime(path, (1, 1))
    assert any_store.download("proxy", "checkpoint-1") == str(new)
    any_store.upload(model, "proxy", "checkpoint-2")
    other = Path(any_store.download("proxy", "checkpoint-2"))
    assert new.exists() and other.exists() and not local.exists()
    any_store.discard(str(other))
    assert not other.exists() and any_store.exists("proxy", "checkpoint-2", "a.bin")


def test_a_file_left_half_made_is_no_part_of_a_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    mark = checksum_of_folder(tmp_path)
    (tmp_path / ".model.safetensors.0f").write_text("half")  # by a process that was killed
    assert checksum_of_folder(tmp_path) == mark
    (tmp_path / "model.safetensors").write_text("whole")
    assert checksum_of_folder(tmp_path) != mark


def test_what_is_created_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.fstat(file).st_size))
    objects = LocalObjects(tmp_path)
    assert objects.create("a", b"123") and not objects.create("a", b"12345")
    assert synced == [3, 5] and objects.read("a") == b"123"

    def refuse(*_):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(OSError, match="expected a filesystem with hard links"):
        objects.create("b", b"1")


def test_temporary_files_of_killed_writes_are_swept_once_they_are_old(store):
    objects = store.objects
    store.write_json({}, "run.json")
    names = [f"losses/f/.part-0-0123456789abcdef.arrow.{n:032x}" for n in range(3)]
    for name in [*names, "losses/f/.hidden", "losses/f/part-1.0123456789abcdef0123456789abcdef"]:
        store.write_bytes(b"half", name)
    for name in names[1:]:
        hours_ago = os.stat(objects.root / name).st_mtime - 7000
        os.utime(objects.root / name, (hours_ago, hours_ago))
    before = objects.sizes("")
    assert objects.sweep(ABANDONED) == names[1:]
    assert before.keys() - objects.sizes("").keys() == {*names[1:]}
    assert objects.sweep(ABANDONED) == [] == objects.sweep(0.0)[1:]


def test_uploads_in_pieces_of_killed_processes_are_aborted_once_they_are_old(s3_uri):
    objects = Store(s3_uri).objects
    upload = {"Bucket": objects.bucket, "Key": f"{objects.prefix}/proxy/model.safetensors"}
    other = upload | {"Key": f"{objects.prefix}-other/model.safetensors"}
    for each in (upload, other):
        objects.client.create_multipart_upload(**each)
    assert objects.sweep(ABANDONED) == []  # it may be under way
    assert objects.sweep(-5.0) == ["proxy/model.safetensors"]
    assert objects.sweep(-5.0) == []
    left = objects.client.list_multipart_uploads(Bucket=objects.bucket)["Uploads"]
    assert [each["Key"] for each in left if each["Key"] == other["Key"]]


def test_a_damaged_tls_record_in_a_body_is_asked_for_again(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    answers = [SSLError("bad record mac"), b"whole"]

    def request():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    objects = S3Objects("s3://bucket/prefix", StorageConfig(region="us-east-1"))
    assert objects._ask("read x", request) == b"whole"


def test_encryption_is_asked_for_with_every_object(s3_uri, tmp_path, monkeypatch):
    monkeypatch.setattr("s2l_ray.store.s3.LARGE", 5 << 20)  # the model goes up in pieces
    store = Store(s3_uri, StorageConfig(encryption="aws:kms", kms_key=KMS_KEY))
    (tmp_path / "model.safetensors").write_bytes(bytes(12 << 20))
    store.upload(tmp_path, "proxy/f/checkpoint-000001")
    part = store.write_part(TABLE, "losses/f", "part-0")
    store.commit("losses/f", "stage", [part], {})
    assert store.read_part("losses/f", part).equals(TABLE)
    assert store.manifest("losses/f").parts == [part]
    assert store.objects.sizes("proxy/f/checkpoint-000001") == {"model.safetensors": 12 << 20}
    for folder in ("losses/f", "proxy/f/checkpoint-000001"):
        for name in store.names(folder):
            head = store.objects._head(f"{folder}/{name}")
            assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", KMS_KEY)

    other = Store(s3_uri, StorageConfig(encryption="aws:kms", kms_key="not-there"))
    with pytest.raises(StorageError, match="cannot write x"):
        other.write_bytes(b"1", "x")


@pytest.mark.parametrize(("guarded", "status"), [(False, 404), (True, 404), (True, 412)])
def test_an_upload_whose_last_answer_is_lost_is_whole(
    s3_uri, ceph, tmp_path, monkeypatch, guarded, status
):
    monkeypatch.setattr("s2l_ray.store.s3.LARGE", 5 << 20)
    proxy = Proxy(ceph.endpoint, {"lost": status})
    objects = S3Objects(s3_uri, StorageConfig(endpoint=proxy.endpoint))
    file, asked = tmp_path / "model", []
    file.write_bytes(os.urandom(12 << 20))
    for name in ("a", "b"):  # of the second no answer is lost
        objects.put_file(file, name, (lambda: asked.append(1)) if guarded else None)
        assert objects.read(name) == file.read_bytes()
    assert proxy.counts["lost"] == 2 and bool(asked) == guarded
    assert objects._holds("a", file) and not objects._holds("c", file)
    file.write_bytes(os.urandom(12 << 20))
    assert not objects._holds("a", file)
    proxy.stop()


def test_names_addresses_and_pickling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("run")
    assert store.uri == str(tmp_path / "run") and store.names() == []
    assert store.address("a", "b") == str(tmp_path / "run/a/b")
    plain = Store("s3://bucket/prefix/")
    assert plain.address("run.json") == "s3://bucket/prefix/run.json"
    assert store.is_local and not plain.is_local
    store.write_json([1], "x.json")
    for one in (store, Store("s3://bucket/prefix", StorageConfig(region="eu-west-1"), 3)):
        _ = one.objects  # open: what is pickled is how to open it
        again = pickle.loads(pickle.dumps(one))
        assert (again.uri, again.config, again.epoch) == (one.uri, one.config, one.epoch)
        assert again._open is None


def test_the_age_of_an_object_in_a_folder_that_can_only_be_read(store, monkeypatch):
    store.write_bytes(b"", "lease", "a.json")
    path = Path(store.address("lease/a.json"))
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert 99 < store.objects.age("lease/a.json") < 110

    def refuse(path, **how):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    assert 99 < store.objects.age("lease/a.json") < 110
