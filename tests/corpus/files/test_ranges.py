"""Ranges of a file together hold the rows that the whole file holds, with the same numbers."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.ranges import ranges_of
from s2l_ray.corpus.reading import read_rows
from s2l_ray.corpus.sources import resolve

LINE = st.sampled_from(
    [b"", b" \r", b'{"a": 1}', b'{"a": "' + b"b" * 30 + b'"}\r', b"bad", b"[", b"\xff", b'{"a": '],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranges")


def told(row):
    return row.number, row.text, getattr(row.content, "reason", row.content)


def read(file, config):
    return [told(row) for row in read_rows(file, config)]


@given(st.lists(LINE, max_size=30), st.booleans(), st.integers(1, 60))
def test_lines_of_ranges_are_those_of_the_file(folder, lines, ended, size):
    path = folder / "a.jsonl"
    first = b'\xef\xbb\xbf{"first": 1}\n'
    path.write_bytes(first + b"\n".join(lines) + (b"\n" if ended else b""))
    other = folder / "b.jsonl"
    other.write_bytes(b'{"b": 1}\n' * 9)
    config = CorpusConfig(path=[str(path), str(other)])
    whole, beside = resolve(config)
    pieces = ranges_of([whole, beside], size, map)
    assert all(piece.bytes <= 1.5 * size for piece in pieces)
    assert sum(piece.bytes for piece in pieces) == whole.bytes + beside.bytes
    for file in (whole, beside):
        mine = [row for piece in pieces if piece.name == file.name for row in read(piece, config)]
        assert mine == read(file, config)
    numbers = [number for number, line in enumerate(path.read_bytes().split(b"\n"), 1)
               if line.strip()]  # fmt: skip
    assert [row[0] for row in read(whole, config)] == numbers


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_row_groups_of_ranges_are_those_of_the_file(folder, rows, group, count):
    path = folder / "a.parquet"
    pq.write_table(pa.table({"a": range(rows)}), path, row_group_size=group)
    config = CorpusConfig(path=str(path))
    [whole] = resolve(config)
    pieces = ranges_of([whole], max(1, whole.bytes // count), map)
    assert len(pieces) <= max(1, -(-rows // group))
    assert len(pieces) > 1 or count == 1 or rows <= group
    found = [row for piece in pieces for row in read(piece, config)]
    assert found == [(n + 1, None, {"a": n}) for n in range(rows)]


def test_what_cannot_be_divided_stays_whole(tmp_path):
    for name in ("a.jsonl.gz", "b.parquet", "c.jsonl"):
        (tmp_path / name).write_bytes(b"{} not Parquet " * 10)
    files = resolve(CorpusConfig(path=str(tmp_path)))
    assert sorted(ranges_of(files, 150, map), key=lambda file: file.name) == files
    divided = ranges_of(files, 100, map)
    assert [file for file in divided if file.name.endswith(("gz", "parquet"))] == files[:2]
    gone = replace(files[2], path=str(tmp_path / "gone.jsonl"))
    with pytest.raises(ValueError, match=r"c.jsonl: cannot be read as jsonl: .*gone"):
        ranges_of([gone], 10, map)
