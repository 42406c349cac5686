"""JSON lines as bad as they come: good rows come out exactly, bad ones are rejected by line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parsed import FIXED, check_bad, check_good, encoded, pair, read


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
good = st.tuples(text, text)
blank = st.sampled_from(["", " ", "\t\n", "\u2003"])
odd = st.sampled_from([None, 7, 1.5, True, [], ["a"], {}, {"a": "b"}, 10**30, float("nan")])
field = st.sampled_from(["prompt", "response"])


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
            (f"duplicate key: '{a[1]}'",),
        )
    ),
    st.tuples(good, st.sampled_from([[], {}, True, float("inf"), float("nan")])).map(
        lambda a: (encoded(pair(a[0]) | {"source": a[1]}), ("wrong type of 'source'",))
    ),
    st.sampled_from(
        [
            (b'{"prompt": ' + b"9" * 5000 + b"}", ("not JSON: Exceeds the limit",)),
            (b"[" * 3000 + b"]" * 3000, ("nested too deep: the limit is 100",)),
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
        check_bad(row, path, number, *reasons, "missing field", "UTF-16 text")


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


@pytest.mark.parametrize("data", [b"\n", b"\xef\xbb\xbf", b" \r\n\t\n"])
def test_a_file_without_rows_has_none(folder, data):
    assert read(folder / "empty.jsonl", data) == []
