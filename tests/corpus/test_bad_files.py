"""Files that are cut short or damaged, and Parquet columns of any type."""

import gzip
import io
import json
import struct

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parsed import FIXED, check_bad, check_good, encoded, pair, read, refusal

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.sources import resolve
from s2l_ray.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


# ---- files that are cut short or damaged

PAIRS = [(f"question {n} é", f"answer {n}") for n in range(40)]
JSONL = b"".join(encoded(pair(row)) + b"\n" for row in PAIRS)
TABLE = pa.Table.from_pylist([pair(row) for row in PAIRS])


def parquet(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.jsonl.gz", gzip.compress(JSONL, mtime=0)),
        ("cut.jsonl.zst", pa.compress(JSONL, codec="zstd", asbytes=True)),
        ("cut.parquet", parquet(TABLE)),
    ],
    ids=["gzip", "zstd", "parquet"],
)
def test_a_file_cut_anywhere_is_refused(folder, name, data):
    for row, (number, made) in zip(read(folder / name, data), enumerate(PAIRS, 1), strict=True):
        check_good(row, folder / name, number, *made)
    for size in range(0, len(data), max(1, len(data) // 150)):
        assert "cannot be read" in refusal(folder / name, data[:size])


def test_a_saved_dataset_cut_anywhere_is_refused(folder):
    """Between two batches too, where an Arrow stream without its end mark reads as whole."""
    datasets.Dataset.from_list([pair((f"p{n}", "r")) for n in range(2500)]).save_to_disk(
        str(folder / "saved")
    )
    path = folder / "saved" / "data-00000-of-00001.arrow"
    data = path.read_bytes()
    assert len(read(folder / "saved")) == 2500
    for size in [*range(0, len(data), len(data) // 150), len(data) - 8]:
        path.write_bytes(data[:size])
        assert "cannot be read as arrow" in refusal(folder / "saved")


@pytest.mark.parametrize(
    "state",
    [b"", b"{", b"\xff", b"[]", b"{}", b"null", b"3", b'{"_data_files": null}',
     b'{"_data_files": 3}', b'{"_data_files": ["a"]}', b'{"_data_files": [{}]}',
     b'{"_data_files": [{"filename": 3}]}', b'{"_data_files": [{"filename": []}]}',
     b'{"_data_files": [{"filename": "../gone.arrow"}]}', b'{"_data_files": []}',
     b"[" * 100_000],
)  # fmt: skip
def test_a_saved_dataset_with_a_bad_state_file_is_refused(folder, state):
    saved = folder / "state"
    saved.mkdir(exist_ok=True)
    (saved / "state.json").write_bytes(state)
    assert "corpus.path" in refusal(saved)


def test_a_flipped_byte_in_parquet_never_changes_a_text(folder):
    """With the checksums that its writer can add; without them nothing could tell."""
    path = folder / "flip.parquet"
    table = TABLE.slice(0, 3)
    data = parquet(table, write_page_checksum=True, compression="none")
    made = {(row["prompt"], row["response"]) for row in table.to_pylist()}
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        try:
            rows = read(path, bytes(damaged))
        except ValueError as error:
            assert str(path) in str(error)
            continue
        assert len(rows) == 3
        for row in rows:
            turns = row["turns"] and tuple(turn["text"] for turn in row["turns"])
            assert row["reason"] or turns in made


# ---- Parquet columns of any type

VALUES = {
    pa.string(): ["a", "é\0", " ", "", None],
    pa.large_string(): ["b", None],
    pa.string_view(): ["c", None],
    pa.binary(): [b"a", b"\xff"],
    pa.int64(): [0, -(2**63), None],
    pa.uint64(): [2**64 - 1],
    pa.float64(): [float("nan"), float("inf"), 0.0],
    pa.bool_(): [True, None],
    pa.null(): [None],
    pa.list_(pa.string()): [["a"], [], None],
    pa.struct([("a", pa.string())]): [{"a": "b"}, None],
    pa.map_(pa.string(), pa.int64()): [[("a", 1)], None],
    pa.decimal128(20, 2): [1, None],
    pa.date32(): [0, 2**31 - 1],
    pa.timestamp("us"): [0, 2**62],
    pa.timestamp("ns"): [1],
    pa.duration("ns"): [1],
    pa.time64("ns"): [1],
}
COLUMN = st.sampled_from(list(VALUES)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(st.sampled_from(VALUES[kind]), min_size=3,
                                                   max_size=3))
)  # fmt: skip


@settings(max_examples=300, **FIXED)
@given(prompts=COLUMN, responses=COLUMN, extras=COLUMN)
def test_parquet_columns_of_any_type(folder, prompts, responses, extras):
    path = folder / "types.parquet"
    columns = {
        name: pa.array(values, kind)
        for name, (kind, values) in zip(
            ("prompt", "response", "extra"), (prompts, responses, extras), strict=True
        )
    }
    found = read(path, parquet(pa.table(columns)))
    assert len(found) == 3
    unreadable = {(pa.date32(), 2**31 - 1), (pa.timestamp("us"), 2**62)}
    for number, row in enumerate(found, 1):
        values = [column[1][number - 1] for column in (prompts, responses)]
        cells = [(column[0], column[1][number - 1]) for column in (prompts, responses, extras)]
        if any(kind in (pa.date32(), pa.timestamp("us")) and (kind, value) in unreadable
               for kind, value in cells):  # fmt: skip
            check_bad(row, path, number, "unreadable value: column ")
        elif all(isinstance(value, str) and value.strip() for value in values):
            check_good(row, path, number, *values)
        else:
            check_bad(row, path, number, "wrong type of", "empty field")


def test_bytes_that_are_no_utf8_in_a_parquet_string_reject_the_row(folder):
    path = folder / "utf8.parquet"
    buffers = [None, pa.py_buffer(struct.pack("<iii", 0, 1, 2)), pa.py_buffer(b"\xffb")]
    faulty = pa.Array.from_buffers(pa.string(), 2, buffers)
    for name in ("prompt", "response", "source", "extra"):
        columns = {"prompt": pa.array(["a", "b"]), "response": pa.array(["c", "d"]), name: faulty}
        one, two = read(path, parquet(pa.table(columns)))
        check_bad(one, path, 1, f"unreadable value: column '{name}': 'utf-8' codec")
        assert json.loads(one["raw"]).keys() == columns.keys() - {name}
        assert two["reason"] is None and two["row"] == 2


def test_parquet_columns_without_a_known_shape_are_refused(folder):
    path = folder / "shape.parquet"
    names = ["prompt", "response", "response"]
    twice = pa.Table.from_arrays([pa.array(["a"])] * 3, names=names)
    assert "duplicate column 'response'" in refusal(path, parquet(twice))
    assert "no columns of a known shape" in refusal(path, parquet(pa.table({"a": [1]})))
    assert read(path, parquet(TABLE.slice(0, 0))) == []


@pytest.mark.parametrize(
    "path", ["foo://x", "file://relative", "/nowhere/[", "~nobody/a.jsonl", "-"]
)
def test_a_path_that_leads_nowhere_is_named(path):
    with pytest.raises(ValueError) as caught:
        resolve(CorpusConfig(path=path))
    assert "corpus.path" in str(caught.value) and path in str(caught.value)


# ---- through the whole stage


def test_the_stage_takes_one_row_and_refuses_none(local_ray, tmp_path):
    store, path = Store(tmp_path / "run"), tmp_path / "a.jsonl"
    config = CorpusConfig(path=str(path), source="only")
    path.write_bytes(encoded(pair(("a", "b"))))
    manifest = ingest(store, config, folder="corpus/one", fingerprint="f")
    assert (manifest.rows, manifest.info["by_source"]) == (1, {"only": 1})
    for name, data in (("none", b"\n"), ("bad", b"x\n" * 3)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"corpus: (no examples in 0 rows|3 of 3 rows)"):
            ingest(store, config, folder=f"corpus/{name}", fingerprint="f")
