"""A run directory as a file system of pyarrow's: what Ray Train does with one."""

import pickle

import pytest
from pyarrow.fs import FileSelector, FileType, LocalFileSystem, copy_files

from s2l_ray.errors import StorageError
from s2l_ray.store import Store
from s2l_ray.store.arrow_files import arrow_files, check_uploads


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def store(request, tmp_path):
    if request.param == "s3":
        return Store(request.getfixturevalue("s3_uri"))
    return Store(tmp_path / "run")


def test_a_folder_is_written_listed_read_and_removed(store, tmp_path):
    (tmp_path / "from" / "inner").mkdir(parents=True)
    contents = {"a": b"1" * 100_000, "empty": b"", "inner/b": b"22"}
    for name, content in contents.items():
        (tmp_path / "from" / name).write_bytes(content)
    files = pickle.loads(pickle.dumps(arrow_files(store)))
    assert files == arrow_files(store)
    files.create_dir("x/y")
    copy_files(str(tmp_path / "from"), "x/y", destination_filesystem=files)
    assert store.objects.sizes("x") == {f"y/{name}": len(c) for name, c in contents.items()}

    kinds = [info.type for info in files.get_file_info(["x/y", "x/y/a", "x/y/none", "x/yy"])]
    assert kinds == [FileType.Directory, FileType.File, FileType.NotFound, FileType.NotFound]
    listed = {info.path: info.type for info in files.get_file_info(FileSelector("x/y"))}
    assert listed == {
        "x/y/a": FileType.File, "x/y/empty": FileType.File, "x/y/inner": FileType.Directory
    }  # fmt: skip
    assert files.get_file_info(FileSelector("x/none", allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError):
        files.get_file_info(FileSelector("x/none"))
    with pytest.raises(FileNotFoundError):
        files.open_input_stream("x/y/none")

    copy_files("x/y", str(tmp_path / "to"), files, LocalFileSystem())
    for name, content in contents.items():
        assert (tmp_path / "to" / name).read_bytes() == content
    files.delete_file("x/y/a")
    files.delete_dir("x/y/inner")
    assert store.objects.sizes("x") == {"y/empty": 0}


def test_an_upload_that_fails_is_told_by_the_next(tmp_path, monkeypatch):
    """pyarrow drops the error of a file's close, and a training would go on without the file."""
    store = Store(tmp_path / "run")
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a").write_bytes(b"1")

    def refuse(local, name, guard):
        raise StorageError("refused")

    monkeypatch.setattr(store.objects, "put_file", refuse)
    files = arrow_files(store)
    copy_files(str(tmp_path / "from"), "x", destination_filesystem=files)
    with pytest.raises(StorageError, match="refused"):
        check_uploads()
    check_uploads()
    copy_files(str(tmp_path / "from"), "x", destination_filesystem=files)
    with pytest.raises(OSError, match="refused"):
        files.create_dir("y")
