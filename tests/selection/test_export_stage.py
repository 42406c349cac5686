"""Exports as files: parts with checksums, lines that every reader counts alike, and the check of
all examples."""

import json

import pyarrow as pa
import pytest
from support.corpora import example, write_corpus

from s2l_ray.selection.exports import stage
from s2l_ray.selection.exports.formats import FORMATS, table_of
from s2l_ray.selection.exports.stage import check_exports, export
from s2l_ray.store.checksums import checksum_of
from s2l_ray.store.schemas import EXAMPLES, SUBSET, completed

CHAT = [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e")]
LINES = ("alpaca", "prompt_response", "messages", "trl_prompt_completion", "llamafactory_alpaca",
         "llamafactory_sharegpt", "axolotl")  # fmt: skip


def chat(text):
    turns = [{"role": role, "text": f"{said}{text}"} for role, said in CHAT]
    return {"source": "s", "turns": turns}


def read(store, corpus):
    [part] = corpus.parts
    return completed(store.read_part(corpus.folder, part), EXAMPLES)


def write_subset(store, rows, per_part=2):
    """A committed subset of these rows, in this order."""
    corpus = read(store, write_corpus(store, rows, num_parts=1))
    corpus = corpus.sort_by("row")
    columns = [pa.array(range(len(rows)), pa.int64()), pa.nulls(len(rows), pa.int32())]
    columns.append(pa.array(["draw"] * len(rows)))
    table = pa.Table.from_arrays([*corpus.columns, *columns], schema=SUBSET)
    parts = [
        store.write_part(table.slice(first, per_part), "selections/t/f", f"subset/part-{n:05d}",
                         suffix="parquet")
        for n, first in enumerate(range(0, len(rows), per_part))
    ]  # fmt: skip
    return store.commit("selections/t/f", "f", parts, {"selector": "random"}), table


def exported(store, subset, name):
    return export(store, subset, name, folder=f"exports/t/{name}/f", fingerprint="f")


def test_no_reader_takes_a_character_of_a_text_for_the_end_of_a_line(store):
    """Python's str.splitlines knows more line ends than any reader of JSON lines."""
    letters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x110000))]
    ends = [letter for letter in letters if len(f"a{letter}b".splitlines()) == 2]
    assert {"\n", "\r", "\x0b", "\x1e", "\x85", "\u2028", "\u2029"} <= {*ends}
    text = "".join(f"a{end}b\ufeff\x00\x7fé🦜" for end in ends)
    table = read(store, write_corpus(store, [example(text, text), example("c", text)], num_parts=1))
    assert {name for name, form in FORMATS.items() if form.suffix == "jsonl"} == {*LINES}
    for name in LINES:
        part = store.write_part(table_of(table, name), "exports/f", f"{name}-0", suffix="jsonl")
        data = store.read_bytes("exports/f", part.file).decode()
        lines = data.splitlines()
        assert len(lines) == part.rows == 2
        rows = [json.loads(line) for line in lines]
        assert [row["example_id"] for row in rows] == [
            str(n) for n in table["example_id"].to_pylist()
        ]
        assert all(text in _texts(row) for row in rows)
        assert "é🦜" in lines[0]  # nothing else is escaped
        assert store.found("exports/f")[f"{name}-0"] == part.file
        assert store.found_part("exports/f", part.file) == part
        assert "".join(store.read_part("exports/f", part)["line"].to_pylist()) == data


def _texts(row):
    """All strings below a row; an encoded list of messages as what it encodes."""
    for value in row.values() if isinstance(row, dict) else row:
        if isinstance(value, str) and value.startswith("[{"):
            value = json.loads(value)
        if isinstance(value, dict | list):
            yield from _texts(value)
        else:
            yield value


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_export_is_made_of_committed_parts_in_rank_order(local_ray, store, name):
    pairs = [example(f"question {n}", f"answer {n}") for n in range(5)]
    subset, table = write_subset(store, pairs)
    manifest = exported(store, subset, name)
    assert store.fault(manifest) is None
    for part in manifest.files:
        assert checksum_of(store.read_bytes(manifest.folder, part.file)) == part.checksum
    data = manifest.parts
    assert [part.unit for part in data] == [f"data/part-{n:05d}" for n in range(3)]
    assert [part.rows for part in data] == [2, 2, 1]
    ids = []
    for part in data:
        found = store.read_part(manifest.folder, part)
        if FORMATS[name].suffix == "parquet":
            ids += found["example_id"].to_pylist()
        else:
            ids += [json.loads(line)["example_id"] for line in found["line"].to_pylist()]
    assert ids == [str(n) for n in table["example_id"].to_pylist()]
    beside = {part.file for part in manifest.beside}
    wanted = {"README.md"}
    wanted |= {"dataset_info.json"} if name.startswith("llamafactory") else set()
    assert beside == wanted | ({"dataset.yaml"} if name == "axolotl" else set())


def test_files_that_an_unfinished_export_left_are_used_or_removed(local_ray, store):
    subset, _ = write_subset(store, [example(f"question {n}", "answer") for n in range(4)])
    first = exported(store, subset, "alpaca")
    store.remove(first.folder, "manifest.json")
    kept, broken = first.parts
    store.write_bytes(b"broken", first.folder, broken.file)
    other = broken.file.replace(broken.checksum, "0" * 16)
    store.write_bytes(b'{"of": "an older version"}\n', first.folder, other)
    before = store.objects.sizes(first.folder)
    assert other in before
    again = exported(store, subset, "alpaca")
    assert again == first and store.fault(again) is None
    assert store.names(first.folder, "data") == [p.file[len("data/") :] for p in (kept, broken)]


def test_a_chosen_example_that_does_not_fit_is_named(local_ray, store):
    subset, _ = write_subset(store, [example("q", "a"), chat(1)])
    with pytest.raises(ValueError, match=r"^selection\.export: test\.jsonl:2: a chat with turns"):
        exported(store, subset, "alpaca")
    assert not store.exists("exports/t/alpaca/f", "manifest.json")


def test_every_example_is_checked_and_the_first_that_does_not_fit_is_named(local_ray, store):
    pairs = [example(f"question {n}", "answer") for n in range(1200)]
    fitting = write_corpus(store, pairs, folder="corpus/pairs")
    check_exports(store, fitting, sorted(FORMATS))
    rows = [*pairs[:700], *map(chat, range(20)), *pairs[700:]]
    corpus = write_corpus(store, rows, num_parts=4)
    check_exports(store, corpus, ["messages", "trl_messages", "llamafactory_sharegpt", "axolotl"])
    assert sum(part.rows for part in corpus.parts) == 1220
    others = {"alpaca": "messages", "prompt_response": "messages",
              "llamafactory_alpaca": "llamafactory_sharegpt",
              "trl_prompt_completion": "trl_messages"}  # fmt: skip
    for name, use in others.items():
        told = (
            rf"^selection\.export: test\.jsonl:701: a chat with turns system, user, assistant, .*; "
            rf"use {use} \(20 of 1,220 examples cannot be written as {name}\)$"
        )
        with pytest.raises(ValueError, match=told):
            check_exports(store, corpus, ["messages", name])


def test_an_example_without_labels_cannot_be_chosen_and_may_have_any_form(store, monkeypatch):
    monkeypatch.setattr(
        stage, "fold_parts",
        lambda work, parts, *args, label: [work(part, *args) for part in parts],
    )  # fmt: skip
    silent = chat(1)
    for turn in silent["turns"]:
        if turn["role"] == "assistant":
            turn["train"] = False
    check_exports(store, write_corpus(store, [silent], folder="corpus/silent"), sorted(FORMATS))
    silent["turns"][-1]["train"] = True
    half = write_corpus(store, [silent], folder="corpus/half")
    check_exports(store, half, ["axolotl", "messages", "trl_prompt_completion_messages"])
    for name in ("trl_messages", "llamafactory_sharegpt"):
        with pytest.raises(ValueError, match=rf"1 of 2 assistant turns have no labels, and {name}"):
            check_exports(store, half, [name])
