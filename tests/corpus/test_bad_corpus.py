"""Corpus files as bad as they come: good rows come out exactly, bad ones are rejected by line."""

import gzip
import hashlib
import io
import json
import struct

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.parsing import tabulate
from s2l_ray.corpus.sources import records, resolve
from s2l_ray.store import Store

FIXED = {"derandomize": True, "deadline": None, "database": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


def read(path, data=None, **changes):
    """The rows of a file as the corpus stage tables them, in order."""
    if data is not None:
        path.write_bytes(data)
    config = CorpusConfig(path=str(path), **changes)
    return [
        row
        for file in resolve(config)
        for table in tabulate(records(file, "train"), file.name, config=config, seed=0, num_parts=4)
        for row in table.to_pylist()
    ]


def refusal(path, data=None, **changes):
    with pytest.raises(ValueError) as caught:
        read(path, data, **changes)
    assert type(caught.value) is ValueError
    assert str(path) in str(caught.value)
    return str(caught.value)


def check_good(row, path, number, prompt, response, source="default"):
    """Against the example schema, the id computed apart."""
    turns = [("user", prompt), ("assistant", response)]
    assert (row["file"], row["row"], row["reason"]) == (str(path), number, None)
    assert (row["source"], [(t["role"], t["text"]) for t in row["turns"]]) == (source, turns)
    pieces = (
        json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in (source, turns)
    )
    digest = hashlib.blake2b("".join(pieces).encode(), digest_size=8).hexdigest()
    assert row["example_id"] == int(digest, 16) >> 1


def check_bad(row, path, number, *reasons):
    assert row["example_id"] is None and row["turns"] is None
    assert (row["file"], row["row"]) == (str(path), number)
    assert row["reason"].startswith(reasons), row["reason"]


# ---- lines

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
good = st.tuples(text, text)
blank = st.sampled_from(["", " ", "\t\n", "\u2003"])
odd = st.sampled_from([None, 7, 1.5, True, [], ["a"], {}, {"a": "b"}, 10**30, float("nan")])
field = st.sampled_from(["prompt", "response"])


def encoded(value):
    return json.dumps(value, ensure_ascii=False).encode()


def pair(row):
    return {"prompt": row[0], "response": row[1]}


def with_bytes(row, at, added):
    line = encoded(pair(row))
    at %= len(line)
    return line[:at] + added + line[at:]


BAD_LINE = st.one_of(
    st.tuples(good, st.integers(1, 500)).map(
        lambda a: (
            (line := encoded(pair(a[0])))[: 1 + a[1] % (len(line) - 1)],
            ("not JSON", "not UTF-8"),
        )
    ),
    st.tuples(
        good, st.integers(0, 500), st.sampled_from([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"])
    ).map(lambda a: (with_bytes(*a), ("not UTF-8",))),
    st.tuples(good, field, odd).map(
        lambda a: (
            encoded(pair(a[0]) | {a[1]: a[2]}),
            (f"wrong type of '{a[1]}'", f"empty field '{a[1]}'"),
        )
    ),
    st.tuples(good, field, blank).map(
        lambda a: (encoded(pair(a[0]) | {a[1]: a[2]}), (f"empty field '{a[1]}'",))
    ),
    st.tuples(good, field).map(
        lambda a: (
            encoded({k: v for k, v in pair(a[0]).items() if k != a[1]}),
            (f"missing field '{a[1]}'",),
        )
    ),
    odd.filter(lambda value: not isinstance(value, dict)).map(
        lambda value: (encoded(value), ("not an object",))
    ),
    good.map(
        lambda a: (
            json.dumps(pair((a[0], a[1] + "\ud83d"))).encode(),
            ("not Unicode text: half of a surrogate pair, U+D83D",),
        )
    ),
    st.tuples(good, field).map(
        lambda a: (
            encoded(pair(a[0]))[:-1] + b', "' + a[1].encode() + b'": "again"}',
            (f"a key given twice: '{a[1]}'",),
        )
    ),
    st.tuples(good, st.sampled_from([[], {}, True, float("inf"), float("nan")])).map(
        lambda a: (encoded(pair(a[0]) | {"source": a[1]}), ("wrong type of 'source'",))
    ),
    st.sampled_from(
        [
            (b'{"prompt": ' + b"9" * 5000 + b"}", ("not JSON: Exceeds the limit",)),
            (b"[" * 3000 + b"]" * 3000, ("not JSON: maximum recursion depth",)),
            (b'{"prompt": "a\x00", "response": "b"}', ("not JSON: Invalid control character",)),
            (b"\xff\xfe{\x00}\x00", ("not UTF-8",)),
            (b"\xef\xbb\xbf{}\xef\xbb\xbf", ("not JSON",)),
            (b"[", ("not JSON",)),
        ]
    ),
)
LINE = st.one_of(
    st.tuples(st.just("good"), good),
    st.tuples(st.just("bad"), BAD_LINE),
    st.tuples(st.just("blank"), st.sampled_from([b"", b" ", b"\t"])),
)


@settings(max_examples=700, **FIXED)
@given(
    first=good,
    lines=st.lists(LINE, max_size=8),
    end=st.sampled_from([b"\n", b"\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    last=st.booleans(),
)
def test_lines_come_out_as_made_or_are_rejected_by_number(folder, first, lines, end, mark, last):
    path = folder / "lines.jsonl"
    lines = [("good", first), *lines]
    raw = [
        encoded(pair(made)) if kind == "good" else made[0] if kind == "bad" else made
        for kind, made in lines
    ]
    rows = iter(read(path, mark + end.join(raw) + (end if last else b"")))
    for number, (kind, made) in enumerate(lines, 1):
        if kind == "good":
            check_good(next(rows), path, number, *made)
        elif kind == "bad":
            row = next(rows)
            check_bad(row, path, number, *made[1])
            assert row["raw"] == made[0].decode(errors="replace")
    assert next(rows, None) is None


@settings(max_examples=200, **FIXED)
@given(lines=st.lists(BAD_LINE.filter(lambda line: line[0] != b"["), min_size=1, max_size=5))
def test_a_file_of_bad_lines_alone_is_refused_or_all_rejected(folder, lines):
    path = folder / "none.jsonl"
    try:
        rows = read(path, b"\n".join(line for line, _ in lines))
    except ValueError as error:
        assert str(path) in str(error) and "no columns of a known shape" in str(error)
        return
    assert len(rows) == len(lines)
    for number, (row, (_, reasons)) in enumerate(zip(rows, lines, strict=True), 1):
        # With no whole row to go by, the columns may be taken to be others.
        check_bad(row, path, number, *reasons, "missing field")


@settings(max_examples=400, **FIXED)
@given(
    rows=st.lists(good, min_size=3, max_size=6),
    which=st.integers(1, 5),
    changes=st.lists(
        st.tuples(st.sampled_from(["flip", "drop", "add", "cut"]), st.integers(0, 400),
                  st.integers(1, 255)),
        min_size=1, max_size=4,
    ),
)  # fmt: skip
def test_a_mutated_line_touches_no_other(folder, rows, which, changes):
    path = folder / "mutated.jsonl"
    lines = [encoded(pair(row)) for row in rows]
    which = 1 + which % (len(rows) - 1)
    line = bytearray(lines[which])
    for kind, at, byte in changes:
        at %= max(1, len(line))
        if kind == "flip" and line:
            line[at] ^= byte
        elif kind == "drop":
            del line[at : at + 1]
        elif kind == "add":
            line.insert(at, byte)
        else:
            del line[at:]
    lines[which] = bytes(line).replace(b"\n", b" ")
    found = {row["row"]: row for row in read(path, b"\n".join(lines))}
    for number, row in enumerate(rows, 1):
        if number != which + 1:
            check_good(found.pop(number), path, number, *row)
    if not lines[which].strip():
        assert not found
        return
    [row] = found.values()
    if row["example_id"] is None:
        check_bad(row, path, which + 1, "")
        assert row["reason"]
        return
    read_apart = json.loads(lines[which])  # it is JSON still: the row is what it now says
    source = read_apart.get("source") or "default"
    check_good(row, path, which + 1, read_apart["prompt"], read_apart["response"], source)


CHAT = [
    ({"role": "user"}, "missing field 'content'"),
    ({"content": "a"}, "missing field 'role'"),
    ({"role": "nurse", "content": "a"}, "unknown role"),
    ({"role": 3, "content": "a"}, "unknown role"),
    ({"role": ["user"], "content": "a"}, "unknown role"),
    ({"role": "user", "content": None}, "empty field 'content'"),
    ({"role": "user", "content": " "}, "empty field 'content'"),
    ({"role": "user", "content": 3}, "wrong type of 'content'"),
    ({"role": "user", "content": [{"type": "image"}]}, "wrong type of 'content'"),
    ({"role": "user", "content": [[]]}, "wrong type of 'content'"),
    ("user", "wrong type in 'messages'"),
    (None, "wrong type in 'messages'"),
    ([], "wrong type in 'messages'"),
]


@settings(max_examples=150, **FIXED)
@given(fault=st.sampled_from(CHAT), at=st.integers(0, 2), row=good)
def test_a_bad_message_rejects_the_chat(folder, fault, at, row):
    path = folder / "chat.jsonl"
    turns = [{"role": "user", "content": row[0]}, {"role": "assistant", "content": row[1]}]
    message, reason = fault
    faulty = [*turns[:at], message, *turns[at:]]
    found = read(path, b"\n".join(encoded({"messages": m}) for m in (turns, faulty, turns)))
    check_good(found[0], path, 1, *row)
    check_bad(found[1], path, 2, reason)
    check_good(found[2], path, 3, *row)


@pytest.mark.parametrize("columns", [{}, {"instruction": "prompt", "output": "response"}])
@pytest.mark.parametrize("bad", [0, 1, 99, 100, 101, 2500])
def test_columns_are_found_after_any_number_of_bad_lines(folder, bad, columns):
    path = folder / "late.jsonl"
    found = read(path, b"x\n" * bad + encoded(pair(("a", "b"))) + b"\n", columns=columns)
    assert len(found) == bad + 1
    check_good(found[-1], path, bad + 1, "a", "b")


def test_a_line_of_many_megabytes_is_read_whole(folder):
    path, long = folder / "long.jsonl", "wörd " * 2**21
    found = read(path, b"\n".join(encoded(pair(row)) for row in [(long, "b"), ("a", long)]))
    check_good(found[0], path, 1, long, "b")
    check_good(found[1], path, 2, "a", long)


@pytest.mark.parametrize("data", [b"", b"\n", b"\xef\xbb\xbf", b" \r\n\t\n"])
def test_a_file_without_rows_has_none(folder, data):
    assert read(folder / "empty.jsonl", data) == []


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
    assert "column 'response' stands twice" in refusal(path, parquet(twice))
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
    for name, data in (("none", b""), ("bad", b"x\n" * 3)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"corpus: (no examples in 0 rows|3 of 3 rows)"):
            ingest(store, config, folder=f"corpus/{name}", fingerprint="f")
