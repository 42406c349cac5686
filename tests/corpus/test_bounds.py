"""What a stranger's files may ask for: time, memory and names have limits, and a sentence each."""

import bz2
import gzip
import io
import json
import lzma
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.chat_families import tokenizer_of

from s2l_ray.config import CorpusConfig, PromptConfig
from s2l_ray.corpus import trees
from s2l_ray.corpus.columns import FileColumns
from s2l_ray.corpus.files import source, walking
from s2l_ray.corpus.files.json_lines import CELLS, Lines, _num_keys
from s2l_ray.corpus.files.matching import matches
from s2l_ray.corpus.messages import conversation_of
from s2l_ray.corpus.parsing import parse_rows
from s2l_ray.corpus.reading import read_batches, read_rows
from s2l_ray.corpus.rows import DECODER, MAX_COLUMNS, MAX_DEPTH, BadRow, first_repeated
from s2l_ray.corpus.shapes import parse, row_settings_of
from s2l_ray.corpus.sources import resolve
from s2l_ray.corpus.tokenization import encode

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PROMPT = PromptConfig(template="chat", max_length=100_000)
GOOD = {"instruction": "q", "output": "a"}


def reasons(path, **settings):
    """What the rows of a file are rejected for; None for an example."""
    config = CorpusConfig(path=str(path), **settings)
    [file] = resolve(config)
    tables = parse_rows(read_batches(file, config), file.name, config=config, seed=0, num_parts=1)
    return [reason for table in tables for reason in table["reason"].to_pylist()]


def refusal(path, **settings):
    config = CorpusConfig(path=str(path), **settings)
    with pytest.raises(ValueError) as caught:
        for file in resolve(config):
            for _ in read_rows(file, config):
                pass
    return str(caught.value)


class Quick:
    """Fails if the block takes longer than so many seconds of CPU."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        self.began = time.process_time()

    def __exit__(self, *_):
        assert time.process_time() - self.began < self.seconds


# -- rows


def test_a_repeated_key_among_many_is_found_at_once():
    keys = [f"k{number}" for number in range(100_000)]
    text = "{" + ",".join(f'"{key}":0' for key in [*keys, keys[-1]]) + "}"
    with Quick(1), pytest.raises(BadRow, match=r"duplicate key.*k99999"):
        DECODER.decode(text)
    assert first_repeated(["a", "b", "c", "b", "a"]) == "b" and first_repeated("abc") is None


def test_a_row_has_so_many_columns(tmp_path):
    many = GOOD | {f"k{number}": 0 for number in range(MAX_COLUMNS - 2)}
    file = tmp_path / "x.jsonl"
    lines = [GOOD, many, many | {"one more": 0}, GOOD]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert reasons(file) == [None, None, "too many columns: 1,001; the limit is 1,000", None]
    table = pa.table({name: [value] for name, value in (many | {"one more": 0}).items()})
    pq.write_table(table, tmp_path / "x.parquet")
    assert "expected at most 1,000 columns, got 1,001" in refusal(tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text(",".join(table.column_names) + "\n")
    assert "expected at most 1,000 columns, got 1,001" in refusal(tmp_path / "x.csv")


def test_a_reason_is_so_long(tmp_path):
    name = "n" * 10**6
    (tmp_path / "twice.csv").write_text(f"{name},{name}\n")
    assert len(refusal(tmp_path / "twice.csv")) < 1500
    (tmp_path / "x.csv").write_bytes(f"instruction,output,{name}\nq,a,".encode() + b"\xff\n")
    [why] = reasons(tmp_path / "x.csv")
    assert why.startswith("not UTF-8: byte 0xff in column 'nnn") and len(why) == 1000


def test_the_name_of_a_source_is_so_long(tmp_path):
    names = ["s" * 1000, "s" * 1001, None, "é" * 1000, "s" * 10**6, "s"]
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(GOOD | {"source": name}) + "\n" for name in names))
    told = "too long a name of a source in 'source': {} characters; the limit is 1,000; if the col"
    for path in (file, tmp_path / "x.parquet"):
        if path != file:
            pq.write_table(pa.Table.from_pylist([GOOD | {"source": n} for n in names]), path)
        found = reasons(path)
        assert [why for why in found if why is None] == [None] * 4
        long = sorted(why for why in found if why)
        assert long[0].startswith(told.format("1,000,000"))
        assert long[1].startswith(told.format("1,001"))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_row_is_so_deep(tmp_path, opening):
    def nested(depth):
        closing = "]" if opening == "[" else "}"
        return opening * depth + "0" + closing * depth

    rows = [
        f'{{"instruction":"q","output":"a","more":{nested(d)}}}' for d in (99, 100, 5000, 10**6)
    ]
    rows += [
        json.dumps({"messages": [{"role": "user", "content": "q"},
                                 {"role": "assistant", "content": "a"}],
                    "tools": f'[{{"name": "t", "parameters": {nested(d)}}}]'})
        for d in (MAX_DEPTH - 2, MAX_DEPTH + 1, 900)
    ]  # fmt: skip
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(rows))
    found = reasons(file)
    deep = "nested too deep: the limit is 100 lists and objects"
    assert found == [None, deep, deep, deep, None, deep, deep]
    # Many lines are read by columns, if they are not too deep for that.
    for depth in (99, 100, 120, 450, 1500, 1990):
        line = f'{{"instruction":"q","output":"a","more":{nested(depth)}}}\n'
        file.write_text(json.dumps(GOOD) + "\n" + line * 3 + json.dumps(GOOD))
        assert reasons(file) == [None, *[None if depth < 100 else deep] * 3, None]


def test_columns_of_parquet_are_as_deep_as_pyarrow_takes_them(tmp_path):
    kind = pa.int8()
    for _ in range(MAX_DEPTH + 1):
        kind = pa.list_(kind)
    table = pa.table({"instruction": ["q"], "more": pa.array([None], kind)})
    pq.write_table(table, tmp_path / "x.parquet")
    assert "schema too deeply nested" in refusal(tmp_path / "x.parquet")


def test_a_key_of_one_line_is_no_column_of_all(tmp_path):
    """24,000 keys in 24,000 lines would be 2.4 GB of columns; here are fewer."""
    lines = [json.dumps({"instruction": "q", f"k{n}": "", "output": "a"}) for n in range(6000)]
    data = "\n".join(lines).encode()
    with Quick(2):
        assert Lines(data, 1).table() is None
    few = "\n".join(lines[:50]).encode()
    assert CELLS > 50 * 52 and Lines(few, 1).table().num_columns == 52
    file = tmp_path / "x.jsonl"
    file.write_bytes(data)
    assert reasons(file) == [None] * 6000


@pytest.mark.parametrize(
    ("lines", "keys"),
    [
        ([{"a": 1, "b": {"c": [{"d": 2}, {"d": 3}]}}] * 5, 4),
        ([{"a": 'x", "y": 1', "q": "\\"}, {"q": '"', "a": "k"}], 2 + 1),  # one is in a text
        ([{"k" * 100 + str(n % 3): n} for n in range(9)], 9 + 3),  # too long to tell apart
        ([{"é" * n: n} for n in range(1, 16)], 15),
        ([{}], 0),
    ],
)
def test_keys_are_counted(lines, keys):
    for separators in ((",", ":"), (", ", ": "), (" ,", " : ")):
        for ascii in (False, True):
            data = "\n".join(
                json.dumps(line, separators=separators, ensure_ascii=ascii) for line in lines
            )
            if not (ascii and keys == 15):  # escaped, those are longer
                assert _num_keys(data.encode()) in (keys, keys - 1), (separators, data)


def test_the_names_of_a_file_s_columns_are_so_many():
    columns = FileColumns("x", (("output", "late"),))
    for number in range(40):
        columns.add(frozenset(f"k{number}-{n}" for n in range(500)))
    assert len(columns.names) <= FileColumns.MOST + 500
    columns.add(frozenset(["instruction", "late", "other"]))
    columns.check()  # it has seen the column that corpus.columns names


def test_a_record_of_many_lines_takes_linear_time(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text('instruction,output\n"' + "\n" * 1_000_000 + 'q",a\n')
    with Quick(10):
        assert reasons(file) == [None]
    assert "the record that ends on line" in refusal(file, max_row_bytes=1000)


def test_trees_of_messages_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "LARGEST", 30)
    monkeypatch.setattr(trees, "LONGEST", 20)

    def message(number, parent, role):
        return {"message_id": str(number), "parent_id": parent, "role": role, "text": "t"}

    chain = [
        message(n, str(n - 1) if n else None, "assistant" if n % 2 else "prompter")
        for n in range(20)
    ]
    longer = [*chain, message(20, "19", "prompter")]
    large = [*chain, *(message(n, "18", "assistant") for n in range(20, 32))]
    for rows, expected in (
        (chain, [None]),
        (longer, ["too long a chat in a tree of messages: the limit is 20 messages"]),
        (large, ["too large a tree of messages: the limit is 30 messages"] * 2 + [None] * 11),
    ):
        file = tmp_path / "x.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert reasons(file) == expected


def test_white_space_in_a_document_takes_linear_time(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("[" + ",".join([" " * 70 + "1"] * 48_000) + "]")
    with Quick(5):
        assert reasons(file) == ["not an object: got a number"] * 48_000


# -- compression


def zeros_in_parquet(size):
    out = io.BytesIO()
    pq.write_table(
        pa.table({"instruction": ["q" * size], "output": ["a"]}), out, compression="zstd",
        use_dictionary=False, write_statistics=False,
    )  # fmt: skip
    return out.getvalue()


BOMBS = {
    "x.jsonl.gz": lambda size: gzip.compress(b" " * size),
    "x.json.bz2": lambda size: bz2.compress(b" " * size),
    "x.csv.zst": lambda size: pa.compress(b"a,b\n" + b"\n" * size, "zstd", asbytes=True),
    "x.json.xz": lambda size: lzma.compress(b"[" + b" " * size),
    "x.parquet": zeros_in_parquet,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_does_not_grow_without_end(tmp_path, monkeypatch, name):
    monkeypatch.setattr(source, "SMALL", 2**18)
    monkeypatch.setattr(source, "EXPANSION", 100)
    bomb = BOMBS[name](2**21)
    assert len(bomb) * 200 < 2**21
    (tmp_path / name).write_bytes(bomb)
    told = refusal(tmp_path / name, max_row_bytes=2**24)
    assert f"{tmp_path / name}: cannot be read as " in told
    assert f"{len(bomb):,} bytes become more than " in told
    assert "over 100 times as many; if you trust the file, decompress it first" in told


def opened(path):
    config = CorpusConfig(path=str(path))
    [file] = resolve(config)
    return file, config


def test_xz_needs_little_memory_and_is_read_to_its_end(tmp_path, monkeypatch):
    rows = [GOOD | {"instruction": f"q{n} " + "é" * n} for n in range(300)]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    half = lzma.compress(b"".join(lines[:150])), lzma.compress(b"".join(lines[150:]))
    file = tmp_path / "x.jsonl.xz"
    for data in (half[0] + half[1], half[0] + b"\0" * 8 + half[1] + b"\0" * 4):
        file.write_bytes(data)
        assert [row.content for row in read_rows(*opened(file))] == rows
    file.write_bytes(half[0])
    assert source.XZ_MEMORY > 2 * 65 * 2**20  # what files of `xz -9` need
    monkeypatch.setattr(source, "XZ_MEMORY", 2**20)
    assert "Memory usage limit exceeded (memory is limited to 1,048,576 bytes)" in refusal(file)
    monkeypatch.undo()
    file.write_bytes(half[0][:-20])
    assert "cut short" in refusal(file)
    file.write_bytes(half[0] + b"more")
    assert "xz: " in refusal(file)


# -- folders


def test_a_folder_has_so_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "MOST", 10)
    for number in range(10):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(GOOD))
    assert len(resolve(CorpusConfig(path=str(tmp_path)))) == 10
    (tmp_path / "more").mkdir()
    told = refusal(tmp_path)
    assert told.startswith(f"corpus.path: {tmp_path}: expected at most 10 files and folders")
    assert "fewer, larger files" in told


def test_links_that_lead_in_circles_are_followed_once(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.jsonl").write_text(json.dumps(GOOD))
    for name, to in (("a/up", ".."), ("a/b/self", "."), ("l1", "l2"), ("l2", "l1"), ("c", "a/b")):
        os.symlink(to, tmp_path / name)
    for number in range(40):  # 2**40 ways, if each is followed
        (tmp_path / f"d{number}").mkdir()
        for side in "xy":
            os.symlink(f"../d{(number + 1) % 40}", tmp_path / f"d{number}/{side}")
    with Quick(1):
        assert [file.path for file in resolve(CorpusConfig(path=str(tmp_path)))] == [
            str(tmp_path / "a/b/x.jsonl")
        ]


def test_a_pattern_of_many_stars_takes_linear_time():
    def same(name, pattern):
        return pattern in ("*", name)

    name = "/".join("a" * 60)
    with Quick(1):
        assert not matches(name, "/".join(["**"] * 30 + ["b"]), same)
        assert matches(name, "/".join(["**", "a"] * 20), same)
    for name, pattern, expected in (
        ("a/b/c", "**/c", True), ("c", "**/c", True), ("a/b", "a/**", True), ("a", "a/**", True),
        ("a/b/c", "a/**/c", True), ("a/c", "a/**/c", True), ("a/b/c", "a/*/c", True),
        ("a/b/c", "a/c", False), ("a/b", "*", False), ("a/b/c", "**/b", False),
    ):  # fmt: skip
        assert matches(name, pattern, same) is expected, (name, pattern)


def test_image_tags_that_are_closed_early_take_linear_time():
    opened, tail = "<image>" * 200_000, "x" * 1_000_000
    chat = [{"role": "user", "content": opened}, {"role": "assistant", "content": "a"}]
    row, settings = {"messages": chat}, row_settings_of(CorpusConfig(path="-"))
    with Quick(5):
        for closed in (f"{opened}</image>{tail}", f"</image>{tail}"):
            chat[0]["content"] = closed
            assert parse(row, settings)[1].turns[0]["text"] == closed
        chat[0]["content"] = f"{opened}</image>{tail}<image>"
        with pytest.raises(BadRow, match="placeholder of an image"):
            parse(row, settings)


@pytest.mark.parametrize("depth", [50, 99, 101, 500, 900, 5000])
def test_arguments_of_a_call_that_are_too_deep_stay_text(depth):
    deep = '{"a":' * depth + "0" + "}" * depth
    call = {"name": "t", "arguments": deep}
    chat = [{"role": "user", "content": "q"},
            {"role": "assistant", "content": "a", "tool_calls": [call]}]  # fmt: skip
    _, example = parse({"messages": chat}, row_settings_of(CorpusConfig(path="-")))
    [found] = conversation_of(example).messages[1]["tool_calls"]
    assert isinstance(found["function"]["arguments"], dict if depth < 100 else str)
    calls = "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    template = TURNS.replace("{{ m.content }}", calls)
    [row] = encode([example], PROMPT, tokenizer_of("qwen2_5", template))
    assert row[0]
