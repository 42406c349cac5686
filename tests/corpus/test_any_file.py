"""Files of any format, compression and encoding: the rows come back with their numbers, in ranges
too, and a damaged file gives rows, reasons or one refusal by its name, never another error.

Each property has some cases in `make test`, and 500 more in the slow slice.
"""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parsed import FIXED

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.ranges import ranges_of
from s2l_ray.corpus.parsing import parse_rows
from s2l_ray.corpus.reading import read_batches
from s2l_ray.corpus.rows import one_by_one
from s2l_ray.corpus.sources import resolve

FEW, MANY = settings(max_examples=25, **FIXED), settings(max_examples=500, **FIXED)
LIMIT = 5000  # bytes of a row

texts = st.lists(
    st.one_of(
        st.sampled_from(["a", "b c", "é", "日本", "🙂", '"', "'", ",", "\t", "\\", "{", "]", "\n",
                         "\r\n", "\x00", "\u2028", "\ufeff", "null", "x" * 200]),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3),
    ),
    min_size=1, max_size=5,
).map("".join)  # fmt: skip
text = st.one_of(texts, texts, texts.map(lambda found: found * 40)).filter(
    lambda found: found.strip() and "<" not in found and len(found.encode()) < LIMIT // 8
)
rows = st.lists(st.tuples(text, text), min_size=1, max_size=12)

COMPRESSED = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


# -- ways to write rows


@st.composite
def json_lines(draw, pairs):
    """The bytes, and the line of each row."""
    ends, data, numbers = draw(st.sampled_from([b"\n", b"\r\n", b" \n"])), b"", []
    line = 1
    for number, (prompt, response) in enumerate(pairs):
        if number and draw(st.booleans()):
            data += draw(st.sampled_from([b"\n", b"  \n", b"\r\n"]))
            line += 1
        data += dumped(draw, {"instruction": prompt, "output": response})
        data += ends if number < len(pairs) - 1 or draw(st.booleans()) else b""
        numbers.append(line)
        line += 1
    return bom(draw) + data, numbers


@st.composite
def json_document(draw, pairs):
    dicts = [{"instruction": prompt, "output": response} for prompt, response in pairs]
    kind = draw(st.sampled_from(["list", "inside", "keys"]))
    if kind == "list":
        value = dicts
    elif kind == "inside":
        value = {"version": 1, "info": {"a": [1]}, "data": dicts}
    else:
        value = {f"k{number}": row for number, row in enumerate(dicts)}
    data = json.dumps(value, ensure_ascii=draw(st.booleans()),
                      indent=draw(st.sampled_from([None, 2]))).encode()  # fmt: skip
    return bom(draw) + data + draw(st.sampled_from([b"", b"\n"])), [*range(1, len(pairs) + 1)]


@st.composite
def table(draw, pairs, format):
    """A text table. NUL and lone CR are no text that Python's writer and reader keep apart."""
    out = io.StringIO(newline="")
    how = {"lineterminator": draw(st.sampled_from(["\n", "\r\n"]))}
    writer = csv.writer(out, delimiter="," if format == "csv" else "\t", **how)
    writer.writerow(["instruction", "output"])
    numbers, line = [], 2
    for pair in pairs:
        before = out.tell()
        writer.writerow(pair)
        numbers.append(line)
        line += out.getvalue()[before:].count("\n")
    return bom(draw) + out.getvalue().encode(), numbers


@st.composite
def arrow(draw, pairs, format):
    kind = draw(st.sampled_from([pa.string(), pa.large_string(), pa.string_view(),
                                 pa.dictionary(pa.int32(), pa.string())]))  # fmt: skip
    if kind == pa.string_view() and format in ("parquet", "feather"):
        kind = pa.string()
    columns = zip(*pairs, strict=True)
    found = pa.table(
        {
            name: pa.array(column, pa.string()).cast(kind)
            for name, column in zip(("instruction", "output"), columns, strict=True)
        }
    )
    out, size = io.BytesIO(), draw(st.integers(1, len(pairs)))
    if format == "parquet":
        pq.write_table(found, out, row_group_size=size,
                       compression=draw(st.sampled_from(["none", "snappy", "zstd", "gzip"])),
                       use_dictionary=draw(st.booleans()),
                       data_page_version=draw(st.sampled_from(["1.0", "2.0"])))  # fmt: skip
    elif format == "feather":
        compression = draw(st.sampled_from(["uncompressed", "lz4", "zstd"]))
        pyarrow.feather.write_feather(found, out, compression=compression, chunksize=size)
    else:
        make = draw(st.sampled_from([pa.ipc.new_file, pa.ipc.new_stream]))
        with make(out, found.schema) as writer:
            for batch in found.to_batches(max_chunksize=size):
                writer.write_batch(batch.replace_schema_metadata(None))
    return out.getvalue(), [*range(1, len(pairs) + 1)]


def bom(draw):
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))


def dumped(draw, row):
    how = draw(st.sampled_from([{}, {"ensure_ascii": False}, {"separators": (",", ":")}]))
    return json.dumps(row, **how).encode()


@st.composite
def files(draw):
    """The name of a file, its bytes, its rows and their numbers."""
    format = draw(st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "arrow", "feather"]))
    pairs = draw(rows)
    if format in ("csv", "tsv"):
        # Python's writer quotes no NUL, and its reader takes a CR in quotes for a line end.
        pairs = [tuple(each.replace("\0", "0").replace("\r", "r") for each in p) for p in pairs]
        data, numbers = draw(table(pairs, format))
    elif format in ("jsonl", "json") and (format == "jsonl" or draw(st.booleans())):
        data, numbers = draw(json_lines(pairs))
    elif format == "json":
        data, numbers = draw(json_document(pairs))
    else:
        data, numbers = draw(arrow(pairs, format))
    ending = (
        draw(st.sampled_from([*COMPRESSED])) if format in ("jsonl", "json", "csv", "tsv") else ""
    )
    return f"x.{format}{ending}", COMPRESSED[ending](data), pairs, numbers


def parsed(pieces, config, read):
    found = []
    for piece in pieces:
        whole = piece.stop == 0
        settings = {"config": config, "seed": 0, "num_parts": 1, "whole": whole}
        for some in parse_rows(read(piece, config), piece.name, first=piece.start == 0, **settings):
            found += some.select(["row", "turns", "reason"]).to_pylist()
    return [
        (
            row["row"],
            *([turn["text"] for turn in row["turns"]] if row["turns"] else [row["reason"]]),
        )
        for row in found
    ]


# -- the rows come back


def check_rows(folder, case, size):
    name, data, pairs, numbers = case
    path = folder / name
    path.write_bytes(data)
    config = CorpusConfig(path=str(path), max_row_bytes=LIMIT)
    [file] = resolve(config)
    expected = [(number, *pair) for number, pair in zip(numbers, pairs, strict=True)]
    single = parsed([file], config, lambda *how: one_by_one(read_batches(*how)))
    assert single == expected
    # Batches of regular rows come before the others of the batch.
    assert sorted(parsed([file], config, read_batches)) == sorted(expected)
    pieces = ranges_of([file], size, map)
    assert sorted(parsed(pieces, config, read_batches)) == sorted(expected)


@FEW
@given(case=files(), size=st.integers(20, 400))
def test_the_rows_of_a_file_come_back(folder, case, size):
    check_rows(folder, case, size)


@pytest.mark.slow
@MANY
@given(case=files(), size=st.integers(20, 400))
def test_the_rows_of_a_file_come_back_500(folder, case, size):
    check_rows(folder, case, size)


# -- damage


@st.composite
def damaged(draw):
    """A file, some of whose bytes have been changed, lost or added, or written in another code."""
    name, data, *_ = draw(files())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "drop", "add", "double", "code"]))
        if kind == "flip" and data:
            data = (
                data[:place]
                + bytes([data[place] ^ 1 << draw(st.integers(0, 7))])
                + data[place + 1 :]
            )
        elif kind == "set":
            some = draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b'"', b"{", b"[", b"\n", b"\r"]))
            data = data[:place] + some + data[place + len(some) :]
        elif kind == "cut":
            data = data[:place]
        elif kind == "drop":
            data = data[:place] + data[place + draw(st.integers(1, 50)) :]
        elif kind == "add":
            data = data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place:]
        elif kind == "double":
            data += data
        elif name.endswith((".jsonl", ".json", ".csv", ".tsv")):
            code = draw(st.sampled_from(["utf-16", "utf-32", "latin-1"]))
            data = data.decode(errors="ignore").encode(code, errors="replace")
    return name, data


def check_damaged(folder, case, size):
    name, data = case
    path = folder / f"damaged-{name}"
    path.write_bytes(data)
    config = CorpusConfig(path=str(path), max_row_bytes=LIMIT)
    try:
        found = resolve(config)
        once = parsed(found, config, read_batches)
        assert sorted(once) == sorted(
            parsed(found, config, lambda *how: one_by_one(read_batches(*how)))
        )
    except ValueError as error:
        assert type(error) is ValueError and str(path) in str(error)
    else:
        assert all(len(row) > 1 for row in once)  # an example, or a reason
    try:
        parsed(ranges_of(resolve(config), size, map), config, read_batches)
    except ValueError as error:
        assert type(error) is ValueError and str(path) in str(error)


@FEW
@given(case=damaged(), size=st.integers(20, 400))
def test_a_damaged_file_gives_rows_reasons_or_one_refusal(folder, case, size):
    check_damaged(folder, case, size)


@pytest.mark.slow
@MANY
@given(case=damaged(), size=st.integers(20, 400))
def test_a_damaged_file_gives_rows_reasons_or_one_refusal_500(folder, case, size):
    check_damaged(folder, case, size)
