"""Parts, manifests and folders, on a local path and on a filesystem that is not."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from s2l_ray.store import FORMAT, Store

TABLE = pa.table({"example_id": [1, 2, 3], "loss": [0.5, 1.5, 2.5]})


@pytest.fixture(params=["local", "remote"])
def any_store(request, tmp_path, monkeypatch):
    """A store on disk, and one whose filesystem does not pass for the local one."""
    if request.param == "remote":
        monkeypatch.setattr(Store, "_opened", lambda self: self._open)
        remote = Store("mock://bucket/run")
        folder = tmp_path / "bucket"
        folder.mkdir()
        # As an object store: no folders to make first, a file appears when it is closed.
        handler = _Objects(pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem()))
        remote._open = pafs.PyFileSystem(handler), "run"
        assert not remote.is_local
        return remote
    local = Store(tmp_path / "run")
    assert local.is_local
    return local


class _Objects(pafs.FSSpecHandler):
    """A pyarrow filesystem in Python over another: makes folders as objects need them."""

    def __init__(self, inner):
        self.inner = inner

    def __eq__(self, other):
        return self is other

    def get_type_name(self):
        return "objects"

    def normalize_path(self, path):
        return path

    def get_file_info(self, paths):
        return self.inner.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self.inner.get_file_info(selector)

    def create_dir(self, path, recursive):
        self.inner.create_dir(path, recursive=recursive)

    def delete_dir(self, path):
        self.inner.delete_dir(path)

    def open_input_stream(self, path):
        return self.inner.open_input_stream(path)

    def open_input_file(self, path):
        return self.inner.open_input_file(path)

    def open_output_stream(self, path, metadata):
        self.inner.create_dir(os.path.dirname(path), recursive=True)
        return self.inner.open_output_stream(path)


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
    assert f"{left} bytes" in message and f"lists {part.bytes} with {part.checksum}" in message


def test_a_missing_part_is_refused_with_its_name(any_store):
    part = any_store.write_part(TABLE, "losses/f", "part-0")
    missing = part.__class__(**(part.__dict__ | {"file": "part-1-0123456789abcdef.arrow"}))
    with pytest.raises(ValueError, match=r"part-1-0123456789abcdef\.arrow: not there"):
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
    assert (written["format"], written["stage"]) == (FORMAT, "losses")
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
    assert any_store.found_parts("losses/f") == {}
    good = any_store.write_part(TABLE, "losses/f", "step-1/part-0", stats={"seconds": 0.25})
    table = any_store.write_part(TABLE, "losses/f", "step-1/part-1", suffix="parquet")
    for number, change in ((2, flip), (3, lambda data: data[:-1]), (4, lambda data: b"")):
        part = any_store.write_part(TABLE, "losses/f", f"step-1/part-{number}")
        damage(any_store, "losses/f", part, change)
    any_store.write_bytes(b"", "losses/f", ".part-5-0123456789abcdef.arrow.3f")  # half written
    any_store.write_bytes(b"x", "losses/f", "part-6-0123456789abcdef.arrow")
    any_store.write_bytes(b"x", "losses/f", "centers.arrow")
    found = any_store.found_parts("losses/f")
    assert found == {"step-1/part-0": good, "step-1/part-1": table}
    assert found["step-1/part-0"].stats == {"seconds": 0.25}
    assert any_store.read_part("losses/f", found["step-1/part-1"]).equals(TABLE)


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


def test_a_remote_write_is_checked_by_its_size(any_store, monkeypatch):
    if any_store.is_local:
        return
    inner = any_store.filesystem.handler
    opened = inner.open_output_stream

    class Short:
        """A store that keeps all but the last byte."""

        def __init__(self, stream):
            self.stream, self.closed = stream, False

        def write(self, data):
            self.stream.write(bytes(data)[:-1])
            return len(data)

        def flush(self):
            pass

        def close(self):
            self.stream.close()
            self.closed = True

    monkeypatch.setattr(
        inner,
        "open_output_stream",
        lambda path, metadata: pa.PythonFile(Short(opened(path, metadata)), mode="w"),
    )
    with pytest.raises(OSError, match=r"x\.bin: 3 bytes written, 2 there"):
        any_store.write_bytes(b"abc", "x.bin")


def test_folders_go_up_and_come_down(any_store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    model = tmp_path / "model"
    model.mkdir()
    for name, content in (("config.json", "{}"), ("a.bin", "aaa"), ("z.bin", "zz")):
        (model / name).write_text(content)
    (model / "sub").mkdir()  # not uploaded
    listed = any_store.upload(model, "proxy", "checkpoint-1")
    assert [file["file"] for file in listed] == ["a.bin", "z.bin", "config.json"]
    assert [file["bytes"] for file in listed] == [3, 2, 2]
    part = any_store.write_part(TABLE, "losses/f", "part-0")  # checksums are those of parts
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x").write_bytes(any_store.read_bytes("losses/f", part.file))
    assert any_store.upload(tmp_path / "p", "q")[0]["checksum"] == part.checksum
    assert any_store.names("proxy", "checkpoint-1") == ["a.bin", "config.json", "z.bin"]

    local = Path(any_store.download("proxy", "checkpoint-1"))
    assert {f.name: f.read_text() for f in local.iterdir()} == {
        "config.json": "{}", "a.bin": "aaa", "z.bin": "zz",
    }  # fmt: skip
    assert any_store.download("proxy", "checkpoint-1") == str(local)
    # A run made anew at the same address is not served a copy of the old one.
    any_store.remove("proxy")
    any_store.remove("proxy")
    assert not any_store.exists("proxy", "checkpoint-1")
    (model / "a.bin").write_text("bbbb")
    any_store.upload(model, "proxy", "checkpoint-1")
    assert Path(any_store.download("proxy", "checkpoint-1"), "a.bin").read_text() == "bbbb"


def test_names_addresses_and_pickling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("run")
    assert store.uri == str(tmp_path / "run") and store.names() == []
    assert store.address("a", "b") == store.path("a", "b") == str(tmp_path / "run/a/b")
    remote = Store("s3://bucket/some/prefix/?endpoint_override=localhost:9000&scheme=http")
    query = "?endpoint_override=localhost:9000&scheme=http"
    assert remote.address("clusters", "f") == f"s3://bucket/some/prefix/clusters/f{query}"
    assert remote.path("clusters") == "bucket/some/prefix/clusters"
    assert not remote.is_local
    plain = Store("s3://bucket/prefix/")
    assert plain.address("run.json") == "s3://bucket/prefix/run.json"
    assert Store(f"file://{tmp_path}/run").is_local
    store.write_json([1], "x.json")
    for one in (store, remote):
        _ = one.filesystem  # open: what is pickled is the URI alone
        again = pickle.loads(pickle.dumps(one))
        assert (again.uri, again._open) == (one.uri, None)
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(store)).read_json("x.json") == [1]
