"""Files of every format: the rows of each, and the sentence for those that cannot be read."""

import bz2
import gzip
import io
import json
import lzma
import random
import struct
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from support.parsed import check_bad, check_good, read, refusal

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files import scanner
from s2l_ray.corpus.reading import read_rows
from s2l_ray.corpus.sources import find_all, resolve

CASES = Path(__file__).parents[1] / "cases"
PAIRS = [("Q0?", "A0."), ("Q1?", "A1."), ("Q2?", "A2."), ("Q3?", "A3."), ("Q4?", "A4.")]
ROWS = [{"prompt": prompt, "response": response} for prompt, response in PAIRS]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def texts(path, data=None, **settings):
    """Prompt and response of each row; all must be usable."""
    rows = read(path, data, **settings)
    assert not [row["reason"] for row in rows if row["reason"]]
    return [(row["turns"][0]["text"], row["turns"][-1]["text"]) for row in rows]


# ---- JSON


@pytest.mark.parametrize("name", ["array_indented", "array_one_line", "array_per_line"])
def test_a_list_of_rows(name):
    path = CASES / f"c14_{name}.json"
    for number, row in enumerate(read(path), 1):
        check_good(row, path, number, f"Q{number - 1}?", f"A{number - 1}.")
    assert texts(path) == PAIRS


CHAT = [{"role": "user", "content": "Q0?"}, {"role": "assistant", "content": "A0."}]


@pytest.mark.parametrize(
    ("document", "pairs"),
    [
        (ROWS, PAIRS),
        ({"data": ROWS}, PAIRS),
        ({"version": "1.0", "about": {"a": [1]}, "rows": ROWS, "count": 5}, PAIRS),
        ({str(number): row for number, row in enumerate(ROWS)}, PAIRS),
        (ROWS[0], PAIRS[:1]),
        ({"messages": CHAT}, PAIRS[:1]),
        ({"id": 1, "tools": [{"a": 1}], "messages": CHAT}, PAIRS[:1]),
        ({"data": [{"messages": CHAT}]}, PAIRS[:1]),
        ([], []),
        ({"data": [*ROWS[:2], *ROWS[2:]], "empty": []}, PAIRS),
    ],
)
@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_documents(tmp_path, document, pairs, indent):
    data = json.dumps(document, indent=indent).encode()
    assert texts(tmp_path / "a.json", data) == pairs
    assert texts(tmp_path / "a.json", b"\xef\xbb\xbf\r\n " + data + b"\r\n") == pairs
    assert texts(tmp_path / "a.json.gz", gzip.compress(data)) == pairs
    assert texts(tmp_path / "a.txt", data, format="json") == pairs


def test_json_lines_in_a_json_file(tmp_path):
    path = tmp_path / "a.json"
    assert texts(path, LINES) == PAIRS
    assert texts(path, LINES.replace(b"\n", b"\r\n\r\n")) == PAIRS
    assert [row["row"] for row in read(path, b"\n\n" + LINES)] == [3, 4, 5, 6, 7]
    bad, *good = read(path, b'{"prompt": "a" "b"}\n' + LINES)
    check_bad(bad, path, 1, "not JSON: Expecting ',' delimiter")
    assert len(good) == 5
    long, *good = read(path, b'{"prompt": "' + b"x" * 200 + b'"}\n' + LINES, max_row_bytes=100)
    check_bad(long, path, 1, "longer than corpus.max_row_bytes: 215 bytes; the limit is 100")
    assert len(good) == 5
    assert texts(CASES / "c15_one_object.json") == PAIRS[:1]


def test_bad_rows_of_a_document_are_rejected_alone(tmp_path):
    path = tmp_path / "a.json"
    faults = {
        '{"prompt": "a", "prompt": "b"}': "duplicate key: 'prompt'",
        '{"prompt": "a" "response": "b"}': "not JSON: Expecting ',' delimiter",
        '{"prompt": "\\x"}': "not JSON: Invalid \\escape",
        '"text"': "not an object: got a string",
        "null": "not an object: got null",
        "[1, [2]]": "not an object: got a list",
        '{"prompt": "' + "x" * 99 + '"}': "longer than corpus.max_row_bytes: 113 bytes",
        "": "not JSON: Expecting value",
    }
    items = [json.dumps(ROWS[0]), *faults, json.dumps(ROWS[1])]
    data = ("[" + " ,\n".join(items) + "]").encode()
    first, *rows, last = read(path, data, max_row_bytes=100)
    check_good(first, path, 1, *PAIRS[0])
    check_good(last, path, len(items), *PAIRS[1])
    for number, (row, raw, reason) in enumerate(zip(rows, faults, faults.values(), strict=True), 2):
        check_bad(row, path, number, reason)
        assert row["raw"] == raw
    not_text = read(
        path, b'[{"prompt": "\xff", "response": "b"}, ' + json.dumps(ROWS[0]).encode() + b"]"
    )
    check_bad(not_text[0], path, 1, "not UTF-8: byte 0xff")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'[{"prompt": "a"}', "cut short"),
        (b'{"data": [{"prompt": "a"}]', "cut short"),
        (b'[{"prompt": "a"}]]', "more text after the end"),
        (b'[{"prompt": "a"}] [{"prompt": "a"}]', "more text after the end"),
        (b'{\n"a": 1\n}\n{\n"a": 2\n}\n', "more text after the end .* one object per line"),
        (b'{"data": {"a": 1}]', "unexpected ']'|cut short"),
        (b'{"train": [{"a": 1}], "test": [{"a": 1}]}', "several lists of objects, 'train' and"),
        (b"{a: 1\n, b: 2}", "a key before byte 3: Expecting value"),
        (b"<!DOCTYPE html><html>", "HTML page: perhaps an error page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "Git LFS pointer: .*pull"),
        (json.dumps(ROWS).encode("utf-16"), "UTF-16 text: expected UTF-8"),
    ],
)
def test_documents_that_are_damaged_are_refused(tmp_path, data, why):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path}: cannot be read as json: .*({why})"):
        read(path)


def test_a_list_in_a_json_lines_file_is_refused_by_name(tmp_path):
    for data in (
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        "[" + ",\n".join(map(json.dumps, ROWS)),
    ):
        said = refusal(tmp_path / "a.jsonl", data.encode())
        assert "expected a JSON object per line, got a list; let its name end in .json" in said


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_items_are_found_wherever_the_stream_is_cut(monkeypatch, chunk):
    """Against the standard library, over random documents with any characters in their texts."""
    monkeypatch.setattr(scanner, "CHUNK", chunk)
    draw = random.Random(chunk)

    def value(depth):
        kind = draw.randrange(6 if depth else 4)
        if kind == 4:
            return [value(depth - 1) for _ in range(draw.randrange(4))]
        if kind == 5:
            return {text(): value(depth - 1) for _ in range(draw.randrange(4))}
        return [text(), draw.random(), None, draw.randrange(10**9)][kind]

    def text():
        return "".join(draw.choice('"\\[]{},: \n\u2028é𝄞ab') for _ in range(draw.randrange(9)))

    for _ in range(150):
        items = [value(3) for _ in range(draw.randrange(5))]
        indent, plain = draw.choice([None, 1]), draw.choice([True, False])
        data = json.dumps(items, indent=indent, ensure_ascii=plain).encode()
        found = scanner.Scanner(io.BytesIO(data))
        pieces = list(found.items(limit=1000))
        found.end()
        assert [json.loads(piece) for piece, _ in pieces] == items
        cut = list(scanner.Scanner(io.BytesIO(data)).items(limit=5))
        for (_, size), (_, true_size) in zip(cut, pieces, strict=True):
            assert size == true_size or size > true_size > 5  # white space after it counts too


# ---- CSV and TSV


def test_csv_with_quotes_as_pandas_reads_them(tmp_path):
    path = tmp_path / "a.csv"
    lines = [
        'source,prompt,"response"',
        "s,plain,007",
        '"","two\r\nlines","say ""hi"", then go"',
        "",
        's,5" pipe,NA',
        "s,é ,true",
    ]
    rows = read(path, "\r\n".join(lines).encode())
    wanted = [
        (2, "s", "plain", "007"),
        (3, "default", "two\r\nlines", 'say "hi", then go'),
        (6, "s", '5" pipe', "NA"),
        (7, "s", "é ", "true"),
    ]
    for row, (number, source, prompt, response) in zip(rows, wanted, strict=True):
        check_good(row, path, number, prompt, response, source)
    assert texts(CASES / "c41_table.csv") == [("a", "b")]
    assert texts(tmp_path / "a.tsv", b'\xef\xbb\xbfprompt\tresponse\na,b\t"c\td"\n') == [
        ("a,b", "c\td")
    ]
    assert texts(tmp_path / "a.csv.gz", gzip.compress(b"prompt,response\na,b\n")) == [("a", "b")]
    assert read(path, b"prompt,response\n") == []


def test_bad_records_of_a_csv_file_are_rejected_alone(tmp_path):
    path = tmp_path / "a.csv"
    data = b'prompt,response\na,b\nonly one\n1,2,3\n"x"y,z\n\xff,b\n"c\nd",e\n'
    rows = read(path, data)
    reasons = [
        (3, "wrong number of columns: expected 2, got 1"),
        (4, "wrong number of columns: expected 2, got 3"),
        (5, "not CSV: ',' expected after '\"'"),
        (6, "not UTF-8: byte 0xff in column 'prompt'"),
    ]
    check_good(rows[0], path, 2, "a", "b")
    for row, (number, reason) in zip(rows[1:5], reasons, strict=True):
        check_bad(row, path, number, reason)
    assert json.loads(json.dumps([row["raw"] for row in rows[1:5]])) == [
        "only one",
        "1,2,3",
        '"x"y,z',
        "\ufffd,b",
    ]
    check_good(rows[5], path, 7, "c\nd", "e")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'prompt,response\na,"never closed\nb,c\n', "line 2: unexpected end of data"),
        (b"prompt,prompt\na,b\n", "duplicate column 'prompt'"),
        (b"prompt,response\ra,b\r", "line 1: new-line character seen in unquoted field"),
        (b"<html>", "HTML page"),
        (b"prompt,response\na," + b"x" * 200, "line 2 is longer than corpus.max_row_bytes 100"),
        (b'prompt,response\na,"' + b"x\n" * 60, "is longer than corpus.max_row_bytes 100"),
    ],
)
def test_csv_files_that_are_damaged_are_refused(tmp_path, data, why):
    said = refusal(tmp_path / "a.csv", data, max_row_bytes=100)
    assert "cannot be read as csv: " in said and why in said


# ---- Arrow


def ipc(table, **options):
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def test_arrow_files_of_every_kind(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    for kind in (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ):
        typed = table.set_column(0, "prompt", table["prompt"].cast(kind))
        assert texts(tmp_path / "a.arrow", ipc(typed)) == PAIRS
    codec = pa.ipc.IpcWriteOptions(compression="zstd")
    assert texts(tmp_path / "b.ARROW", ipc(table, options=codec)) == PAIRS
    feather.write_feather(table, tmp_path / "a.feather")
    assert texts(tmp_path / "a.feather") == PAIRS
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert texts(tmp_path / "stream.arrow", sink.getvalue()) == PAIRS
    whole = ipc(table)
    for size in range(0, len(whole), 40):
        assert "cannot be read" in refusal(tmp_path / "a.arrow", whole[:size])


def test_arrow_data_that_points_outside_its_buffers_is_refused(tmp_path):
    """Reading it would show other memory of the process, or crash."""

    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path, data = tmp_path / "a.arrow", ipc(pa.table({"messages": [messages, messages * 3]}))
    offsets = struct.pack("<iii", 0, 2, 8)
    assert data.count(offsets) == 1
    assert [len(row["turns"]) for row in read(path, data)] == [2, 6]
    for last in (9, 10**6, -1, 1):
        said = refusal(path, data.replace(offsets, struct.pack("<iii", 0, 2, last)))
        assert "cannot be read as arrow: damaged: column 'messages': " in said
    data = ipc(pa.table({"prompt": ["pp", "p" * 6], "response": ["b", "c"]}))
    assert data.count(offsets) == 1
    damaged = data.replace(offsets, struct.pack("<iii", 0, 2, 10**6))
    assert "damaged: column 'prompt'" in refusal(path, damaged)
    texts_with_a_bad_byte = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffb")]
    )
    data = ipc(pa.table({"prompt": texts_with_a_bad_byte, "response": ["b", "c"]}))
    bad, good = read(tmp_path / "a.arrow", data)
    check_bad(bad, tmp_path / "a.arrow", 1, "unreadable value: column 'prompt'")
    check_good(good, tmp_path / "a.arrow", 2, "b", "c")


# ---- compressions, and content that the name does not tell


COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    ".zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", COMPRESS)
def test_every_compression(tmp_path, ending):
    compress = COMPRESS[ending]
    path = tmp_path / f"a.jsonl{ending.upper()}"
    members = compress(LINES[:100]) + compress(LINES[100:])
    assert texts(path, members) == PAIRS
    whole = compress(LINES)
    for size in range(0, len(whole), 9):
        assert "cannot be read" in refusal(path, whole[:size])
    assert "expected " in refusal(path, LINES)
    said = refusal(path, b"version https://git-lfs.github.com/spec/v1\n")
    assert "cannot be read as jsonl: Git LFS pointer: not the file itself" in said
    [first, *_] = read(tmp_path / "named.jsonl", whole)
    check_bad(first, tmp_path / "named.jsonl", 1, *(f"{k} data: let its name end in" for k in
              ("gzip", "bz2", "xz", "zstd")))  # fmt: skip


def test_a_folder_of_many_formats(tmp_path):
    """One row each, and what holds none."""
    one, two, *_ = LINES.splitlines(keepends=True)
    for name, data in {
        "a.jsonl": one,
        "b.jsonl.bz2": bz2.compress(two),
        "c.json.xz": lzma.compress(json.dumps(ROWS[2:3]).encode()),
        "d.csv": b"response,prompt\nA3.,Q3?\n",
        "e.jsonl.zstd": b"",
        "f.arrow": ipc(pa.Table.from_pylist(ROWS[4:])),
        "README.md": b"# data\n",
    }.items():
        (tmp_path / name).write_bytes(data)
    found = find_all(CorpusConfig(path=str(tmp_path)))
    assert [*found.passed.items()] == [
        (f"{tmp_path}/README.md", "unknown ending"),
        (f"{tmp_path}/e.jsonl.zstd", "empty"),
    ]
    assert texts(tmp_path) == PAIRS


def test_several_members_and_odd_lines():
    for name in ("c18_multi.jsonl.gz", "c18_multi.jsonl.zst"):
        assert texts(CASES / name) == PAIRS
    rows = read(CASES / "c19_separators.jsonl")
    assert [row["reason"] for row in rows] == [None] * 4
    assert rows[0]["turns"][0]["text"] == "a\u2028b\u2029c\x85d\x0be\x0cf"
    assert rows[1]["turns"][0]["text"] == "nul \0 in"
    rows = read(CASES / "c20_bom_crlf.jsonl")
    assert [row["turns"] and row["turns"][0]["text"] for row in rows] == [
        *("Q0?", "Q1?", "Q2?", "Q3?", "Q4?"), None
    ]  # fmt: skip
    assert read(CASES / "c20b_utf16.jsonl")[0]["reason"].startswith("UTF-16 text: expected UTF-8")
    [row] = read(CASES / "c20c_cr_only.jsonl")
    assert row["reason"].startswith("not JSON: Extra data")
    one, two = read(CASES / "c20d_surrogate_pair.jsonl")
    assert (one["turns"][0]["text"], two["reason"]) == (
        "😀",
        "not Unicode text: half of a surrogate pair, U+D83D",
    )


def test_parquet_of_other_writers():
    first = read(CASES / "c10_large.parquet")[0]
    assert [(turn["role"], turn["text"]) for turn in first["turns"]] == [
        ("user", "Hi"),
        ("assistant", "Hello."),
    ]
    assert {row["source"] for row in read(CASES / "c10_dict.parquet")} == {"x", "y"}


def test_a_file_that_is_no_parquet_says_what_it_is(tmp_path):
    path = tmp_path / "a.parquet"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    assert "parquet: Git LFS pointer: not the file itself; run 'git lfs pull'" in refusal(
        path, pointer
    )
    assert "parquet: HTML page: perhaps an error page" in refusal(path, b"<!DOCTYPE html>\n<html>")
    arrow = ipc(pa.Table.from_pylist(ROWS))
    assert "parquet: Arrow data: let its name end in .arrow" in refusal(path, arrow)


# ---- corpus.max_row_bytes


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_a_line_over_the_limit_is_rejected_alone(tmp_path, ending):
    path = tmp_path / f"a.jsonl{ending}"
    exact = json.dumps({"prompt": "p", "response": "é"}, ensure_ascii=False).encode()
    limit = len(exact)
    data = exact + b"\r\n" + exact + b" \n" + b"x" * 5_000_000 + b"\n" + exact
    rows = read(path, COMPRESS.get(ending, bytes)(data), max_row_bytes=limit)
    check_good(rows[0], path, 1, "p", "é")
    check_bad(rows[1], path, 2, f"longer than corpus.max_row_bytes: {limit + 1} bytes; the limit")
    check_bad(
        rows[2], path, 3, f"longer than corpus.max_row_bytes: 5,000,001 bytes; the limit is {limit}"
    )
    check_good(rows[3], path, 4, "p", "é")
    assert rows[2]["raw"] == "x" * (limit + 2)


def test_a_row_of_columns_over_the_limit_is_rejected_alone(tmp_path):
    rows = [{"prompt": "p", "response": "r" * size} for size in (10, 2000, 20, 1500)]
    for name, write in (("a.parquet", pq.write_table), ("a.arrow", feather.write_feather)):
        write(pa.Table.from_pylist(rows), tmp_path / name)
        found = read(tmp_path / name, max_row_bytes=1000)
        check_good(found[0], tmp_path / name, 1, "p", "r" * 10)
        check_bad(found[1], tmp_path / name, 2, "longer than corpus.max_row_bytes: 2,031 bytes")
        check_good(found[2], tmp_path / name, 3, "p", "r" * 20)
        check_bad(found[3], tmp_path / name, 4, "longer than corpus.max_row_bytes: 1,531 bytes")
    shared = pa.table({"prompt": pa.array(["p" * 300, "q" * 900, "p" * 300]).dictionary_encode(),
                       "response": ["a", "b", "c"]})  # fmt: skip
    feather.write_feather(shared, tmp_path / "shared.arrow")
    rows = read(tmp_path / "shared.arrow", max_row_bytes=1000)  # the dictionary alone is larger
    assert [row["reason"] for row in rows] == [None] * 3


def test_a_range_of_lines_keeps_the_limit(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 100 + b"\n" + LINES)
    [whole] = resolve(CorpusConfig(path=str(path)))
    config = CorpusConfig(path=str(path), max_row_bytes=50)
    start = replace(whole, start=0, stop=50)
    rest = replace(whole, start=50, stop=whole.bytes, first=2)
    assert [row.number for row in read_rows(start, config)] == [1]
    assert [row.number for row in read_rows(rest, config)] == [2, 3, 4, 5, 6]
