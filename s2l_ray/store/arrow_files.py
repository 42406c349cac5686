"""A run directory as a file system of pyarrow's, for libraries that write with one.

pyarrow's own S3 client does not know all settings of the section storage, leaves objects for
folders, and loses a file silently if the store refuses the upload's checksum.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from s2l_ray.store.store import Store

_failed: list[Exception] = []  # uploads of this process; pyarrow drops an error of a file's close


def check_uploads() -> None:
    """Raise the error of an upload of this process that has failed since the last call."""
    if _failed:
        error = _failed[0]
        _failed.clear()
        raise error


def arrow_files(store: Store) -> PyFileSystem:
    """Return the run directory as a file system. Paths are below the run directory."""
    return PyFileSystem(_Files(store))


class _Files(FileSystemHandler):
    """Whole files only; they pass through a temporary file of this node."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Files) and other.store.uri == self.store.uri

    def get_type_name(self) -> str:
        return "s2l_ray"

    def normalize_path(self, path: str) -> str:
        return path.strip("/")

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        folder, _, name = path.strip("/").rpartition("/")
        size = self.store.objects.sizes(folder).get(name)
        if size is not None:
            return FileInfo(path, FileType.File, size=size)
        there = self.store.objects.names(path.strip("/"))
        return FileInfo(path, FileType.Directory if there else FileType.NotFound)

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        base = selector.base_dir.strip("/")
        sizes = self.store.objects.sizes(base)
        if not sizes and not selector.allow_not_found:
            raise FileNotFoundError(base)
        files = {
            f"{base}/{name}": FileInfo(f"{base}/{name}", FileType.File, size=size)
            for name, size in sizes.items()
            if selector.recursive or "/" not in name
        }
        inner = {str(above) for name in sizes for above in Path(name).parents} - {"."}
        folders = [
            FileInfo(f"{base}/{name}", FileType.Directory)
            for name in sorted(inner)
            if selector.recursive or "/" not in name
        ]
        return folders + list(files.values())

    def create_dir(self, path: str, recursive: bool) -> None:
        """A folder is there as soon as a file is in it. Raises what an earlier upload met."""
        check_uploads()

    def delete_dir(self, path: str) -> None:
        self.store.remove(path.strip("/"))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.store.remove(path.strip("/"))

    def delete_file(self, path: str) -> None:
        self.store.remove(path.strip("/"))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, "file")
            self.store.objects.get_file(path.strip("/"), local)
            return pa.PythonFile(open(local, "rb"), mode="r")  # stays open without its name

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Upload(self.store, path.strip("/")), mode="w")

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def move(self, src: str, dest: str) -> None:
        raise NotImplementedError

    def copy_file(self, src: str, dest: str) -> None:
        raise NotImplementedError

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        raise NotImplementedError


class _Upload:
    """A file that is put into the run directory when it is closed."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name, self.closed = store, name, False
        handle, self.local = tempfile.mkstemp()
        self.file: BinaryIO = os.fdopen(handle, "wb")

    def write(self, data: Any) -> int:
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.file.close()
        try:
            self.store.put_file(self.local, self.name)
        except Exception as error:  # LeaseLost too
            _failed.append(error)
            raise
        finally:
            os.unlink(self.local)
