"""Rows that are read by columns become what they become one by one: the same examples and ids, the
same rejections, the same columns of the file."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parsed import FIXED, check_good

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.columns import MEANINGFUL, whole_columns
from s2l_ray.corpus.files.batches import Slice
from s2l_ray.corpus.files.json_lines import Lines
from s2l_ray.corpus.parsing import parse_rows
from s2l_ray.corpus.reading import read_batches, read_rows
from s2l_ray.corpus.regular import regular_examples
from s2l_ray.corpus.rows import SourceRow
from s2l_ray.corpus.shapes import row_settings_of
from s2l_ray.corpus.sources import resolve

CASES = Path(__file__).parents[1] / "cases"


def parsed(rows, config, first=True):
    """The rows of PARSED in one order, and what is known of the columns."""
    tables, how = [], {"config": config, "seed": 3, "num_parts": 7, "first": first}
    reading = parse_rows(rows, "file", **how)
    try:
        while True:
            tables.append(next(reading))
    except StopIteration as end:
        columns = end.value
    except ValueError as error:
        return str(error)
    found = pa.concat_tables(tables).to_pylist()
    found.sort(key=lambda row: (row["row"], str(row)))
    return found, columns.names, columns.rows, columns.complete, columns.known


def check_same(path, **changes):
    config = CorpusConfig(path=str(path), **changes)
    for file in resolve(config):
        together = parsed(read_batches(file, config), config)
        assert together == parsed(read_rows(file, config), config)


def taken(path, **changes):
    """How many rows of a file are read by columns."""
    config = CorpusConfig(path=str(path), **changes)
    [file] = resolve(config)
    batches = [each for each in read_batches(file, config) if isinstance(each, Lines | Slice)]
    return sum(
        len(examples.rows)
        for batch in batches
        if (table := batch.table()) is not None
        for examples in regular_examples(table, row_settings_of(config))
    )


# -- any rows, as JSON lines and as Arrow

text = st.one_of(
    st.sampled_from(["a", "b c", "é\n", '"\\', "<image>", "<video> a", "<image></image>", "", " ",
                     "\u3000\x1c", "\x00", "\u2028", "\U0001f600", "x" * 50, "2024-01-01", "1"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)  # fmt: skip
odd = st.sampled_from([None, 0, 1.5, True, [], {}, ["a"], {"b": None}, [["a", "b"]], 2**70, [[]]])
value = st.one_of(text, text, text, odd)
role = st.sampled_from(["user", "assistant", "Human ", "gpt", "system", "tool", "function_call",
                        "narrator"])  # fmt: skip
message = st.one_of(
    st.fixed_dictionaries({"role": role, "content": text}),
    st.fixed_dictionaries({"from": role, "value": text}),
    st.fixed_dictionaries(
        {"role": role, "content": value},
        optional={"weight": st.sampled_from([0, 1, None]), "name": value, "from": role,
                  "notes": value, "id": value},
    ),
)  # fmt: skip
chat = st.one_of(
    st.lists(message, max_size=3),
    st.lists(st.sampled_from(["a", "b c"]), min_size=1, max_size=3).map(
        lambda texts: [
            {"role": role, "content": text} for text in texts for role in ("user", "assistant")
        ]
    ),
)
pair = st.fixed_dictionaries({"instruction": text, "output": text})
more = st.fixed_dictionaries(
    {},
    optional={
        "input": value, "context": value, "system": value, "source": value, "topic": value,
        "tools": value, "label": value, "images": value, "reasoning": value, "question": value,
        "answer": value, "id": st.integers(), "message_id": value,
    },
)  # fmt: skip
chats = st.fixed_dictionaries({"messages": chat})
row = st.one_of(pair, chats, st.tuples(st.one_of(pair, chats, st.just({})), more).map(
    lambda both: both[0] | both[1]
))  # fmt: skip
alike = st.one_of(
    st.lists(pair, max_size=6), st.lists(chats, max_size=6), st.lists(row, max_size=6)
)
how = st.sampled_from(
    [
        {},
        {"columns": {"source": "topic"}, "heldout_share": 0.4},
        {"columns": {"instruction": "question", "output": "answer", "input": "input"}},
        {"ignore_keys": ["input", "weight", "from", "source"], "source": "s"},
        {"roles": {"narrator": "user"}, "columns": {"messages": "messages", "system": "topic"}},
        {"columns": {"source": None}, "max_row_bytes": 120},
    ]
)
FORMS = st.sampled_from([{}, {"ensure_ascii": False}, {"separators": (",", ":")}])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("regular")


@settings(max_examples=150, **FIXED)
@given(rows=alike, changes=how, form=FORMS, end=st.sampled_from(["\n", "\r\n", " \n", "\n\n"]),
       bad=st.sampled_from([None, None, "{", '{"a":1}{"a":2}', '{"output":"x","output":"y"}', "[1]",
                            '{"output": NaN, "instruction": "a"}', '{"id": -NaN}',
                            '{"output": "\\ud800", "instruction": "a"}']))  # fmt: skip
def test_any_lines(folder, rows, changes, form, end, bad):
    first = json.dumps({"instruction": "q", "output": "a"})
    lines = [first, *(json.dumps(row, **form) for row in rows), *([bad] if bad else [])]
    (folder / "a.jsonl").write_text(end.join(lines) + end, "utf-8", newline="")
    check_same(folder / "a.jsonl", **changes)


@settings(max_examples=150, **FIXED)
@given(rows=alike, changes=how, encode=st.booleans())
def test_any_arrow(folder, rows, changes, encode):
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["instruction"]
    try:
        columns = [pa.array([row.get(name) for row in rows]) for name in names]
    except (pa.ArrowException, OverflowError):  # several types in one column
        return
    if encode:
        columns = [each.dictionary_encode() if pa.types.is_string(each.type) else each
                   for each in columns]  # fmt: skip
    feather.write_feather(pa.table(columns, names=names), folder / "a.arrow")
    check_same(folder / "a.arrow", **changes)


@pytest.mark.parametrize("path", sorted(CASES.iterdir()), ids=lambda path: path.name)
def test_the_cases(path):
    check_same(path)


# -- what is read by columns, and what is not


def lines(tmp_path, *rows):
    path = tmp_path / "a.jsonl"
    texts = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("".join(text + "\n" for text in texts), "utf-8")
    check_same(path)
    return path


def test_plain_rows_are_read_by_columns(tmp_path):
    rows = [{"instruction": f"q{n}", "output": 'é\n"\\', "source": "s", "n": n} for n in range(9)]
    path = lines(tmp_path, *rows)
    assert taken(path) == 8  # the first line is read by itself
    [file] = resolve(config := CorpusConfig(path=str(path)))
    [table] = [
        table
        for table in parse_rows(
            read_batches(file, config), str(path), config=config, seed=0, num_parts=4
        )
        if table.num_rows == 8
    ]
    check_good(table.to_pylist()[3], path, 5, "q4", 'é\n"\\', "s")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert taken(tmp_path / "a.parquet") == 9


def test_plain_chats_are_read_by_columns(tmp_path):
    turns = [{"role": "System", "content": ""}, {"role": "user", "content": "q"},
             {"role": "assistant", "content": "a", "weight": None}]  # fmt: skip
    share = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert taken(lines(tmp_path, *[{"messages": turns, "system": " "}] * 4)) == 3
    assert taken(lines(tmp_path, *[{"conversations": share, "id": 3}] * 4)) == 3


def test_a_bad_row_costs_the_others_nothing(tmp_path):
    good, blank = {"prompt": "q", "response": "a"}, {"prompt": "q", "response": "\u3000"}
    marked = {"prompt": "<image> q", "response": "a"}
    assert taken(lines(tmp_path, good, good, blank, marked, good, {"prompt": "q"}, good)) == 3


@pytest.mark.parametrize("more", [{}, {"source": "own"}, {"source": None}])
def test_columns_that_folder_names_give(tmp_path, more):
    folder = tmp_path / "source=math/level=2"
    folder.mkdir(parents=True)
    rows = [{"prompt": f"q{n}", "response": "a" * n} | more for n in range(4)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        check_same(folder / name)
        config = CorpusConfig(path=str(folder / name))
        [file] = resolve(config)
        found = parsed(read_batches(file, config), config)[0]
        source = {None: "default", "own": "own", "none": "math"}[more.get("source", "none")]
        assert [row["source"] for row in found if row["reason"] is None] == [source] * 3
        [batch] = [each for each in read_batches(file, config) if not isinstance(each, SourceRow)]
        assert (batch.table() is None) == bool(more)


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "q", "response": "a", "response": "b"}',
        '{"prompt": "q", "response": "a", "x": {"y": 1, "y": 2}}',
        '{"prompt": "q", "response": "a"} {"prompt": "q", "response": "a"}',
        '{"prompt": "q", "response": "a", "x": {\n}}',
        '{"prompt": "q", "response": "a", "x": -NaN}',
        '{"prompt": "q", "response": "a", "x": Inf}',
        '{"prompt": "q", "response": "a", "x": ' + "9" * 5000 + "}",
        '{"prompt": "q", "response": "a", "x": [' + "9" * 5000 + "]}",
        '{"prompt": "q", "response": "a", "x": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"prompt": "q", "response": "a", "x": ' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}",
        '{"prompt": "q", "response": "a\\udc00"}',
        '{"prompt": "q", "response": "a\tb"}',
        '{"prompt": "q", "response": "a",}',
        "\ufeff" + '{"prompt": "q", "response": "a"}',
    ],
)
def test_lines_that_pyarrow_reads_differently(tmp_path, line):
    good = {"prompt": "q", "response": "a"}
    assert taken(lines(tmp_path, good, good, line, good)) == 0


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    line = b'{"prompt": "q", "response": "a%s"}\n'
    path.write_bytes(line % b"" * 3 + line % b"\xff" + line % b"\xed\xa0\x80")
    check_same(path)
    assert taken(path) == 0
    texts = pa.array([b"a", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"prompt": ["q", "q"], "response": texts}), tmp_path / "a.parquet")
    check_same(tmp_path / "a.parquet")
    assert taken(tmp_path / "a.parquet") == 0


def test_pyarrow_and_python_agree_on_space():
    """`regular._blank` relies on it."""
    texts = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    stripped = pc.utf8_ltrim_whitespace(pa.array(texts)).to_pylist()
    assert stripped == [text.strip() for text in texts]


@given(st.sets(st.one_of(st.sampled_from(sorted(MEANINGFUL)), st.sampled_from(["x", "topic"]))))
def test_only_meaningful_names_tell_a_shape(names):
    known = frozenset(MEANINGFUL & names)
    assert whole_columns(frozenset(names), frozenset()) == whole_columns(known, frozenset())
