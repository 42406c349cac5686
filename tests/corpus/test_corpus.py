"""Sources of every shape and format -> the corpus: ids, duplicates, rejected rows, parts."""

import gzip
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus import parsing as tables
from s2l_ray.corpus.bad_row import BadRow
from s2l_ray.corpus.identity import content_of, example_id_of
from s2l_ray.corpus.ingest import digest_of, ingest, read_examples
from s2l_ray.corpus.shapes import Columns, detect, parse
from s2l_ray.corpus.sources import fingerprint_of, records, resolve
from s2l_ray.selection.exports import export_row
from s2l_ray.store import Manifest, Store
from s2l_ray.store.schemas import EXAMPLES, REJECTED


def lines(items: list[dict]) -> bytes:
    return b"".join(json.dumps(item, ensure_ascii=False).encode() + b"\n" for item in items)


def table_of(store: Store, manifest: Manifest, below: str = "") -> list[dict]:
    folder = manifest.folder + below
    found = store.manifest(folder)
    assert found is not None
    return [row for part in found.parts for row in store.read_part(folder, part).to_pylist()]


def message(role: str, content: object) -> dict:
    return {"role": role, "content": content}


PAIRS = [(f"question {n} é", f" answer {n}\n") for n in range(60)]
BAD = [
    (b'{"instruction": "a", "output": ', "not JSON: Expecting value at character 32"),
    (b'["a"]', "not an object: found a list"),
    (b'{"instruction": "a"}', "missing field 'output': found instruction"),
    (b'{"instruction": "a", "output": " "}', "empty field 'output'"),
    (b'{"instruction": "a", "output": null}', "empty field 'output': found null"),
    (b'{"instruction": "a", "output": 7}', "wrong type of 'output': found a number, wanted"),
    (b'{"instruction": "a", "output": "b", "source": []}', "wrong type of 'source': found a list"),
    (b'{"instruction": "a", "output": "b\xff"}', "not UTF-8: byte 0xff at byte 34"),
    (b'{"instruction": "a", "output": "\\ud800"}', "not Unicode text: half of a surrogate pair"),
    (b"[" * 100_000, "not JSON: maximum recursion depth"),
]


@pytest.fixture(scope="module")
def mixed(local_ray, tmp_path_factory) -> tuple[Store, Manifest, CorpusConfig, Path]:
    """One ingest of every format, with duplicates, bad rows and a held-out share."""
    top = tmp_path_factory.mktemp("mixed")
    (top / "in/deep").mkdir(parents=True)
    alpaca = [{"instruction": q, "input": "", "output": a, "extra": 1} for q, a in PAIRS[:10]]
    alpaca[3]["input"] = "an input"
    bad = b"\n".join(raw for raw, _ in BAD)
    (top / "in/a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(alpaca) + b"\n \r\n" + bad)
    pairs = [{"prompt": q, "response": a} for q, a in PAIRS[10:20]]
    (top / "in/deep/b.jsonl.gz").write_bytes(gzip.compress(lines(pairs)))
    chats = [{"messages": [message("user", q), message("assistant", a)]} for q, a in PAIRS[20:30]]
    (top / "in/c.jsonl.zst").write_bytes(pa.compress(lines(chats), codec="zstd", asbytes=True))
    shared = [
        {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in PAIRS[30:40]
    ]
    (top / "in/d.json").write_bytes(lines(shared))
    asked = [{"question": q, "answer": a, "source": 5} for q, a in PAIRS[40:50]]
    pq.write_table(pa.Table.from_pylist(asked), top / "in/e.parquet")
    saved = datasets.Dataset.from_list([{"prompt": q, "completion": a} for q, a in PAIRS[50:]])
    datasets.DatasetDict(train=saved, test=saved.select([0])).save_to_disk(str(top / "saved"))
    (top / "more-1.jsonl").write_bytes(lines(pairs[:4] + pairs[:1]))  # again: 5 duplicates
    (top / "in/.hidden.jsonl").write_bytes(b"not read")
    (top / "in/notes.txt").write_bytes(b"not read")
    config = CorpusConfig(
        path=[str(top / "in"), str(top / "saved"), str(top / "more-*.jsonl")],
        source="here",
        max_rejected_share=0.2,
        heldout_share=0.3,
        num_parts=4,
    )
    store = Store(top / "run")
    return store, ingest(store, config, folder="corpus/x", fingerprint="x"), config, top


def test_every_format_in_one_corpus(mixed):
    store, manifest, _, _top = mixed
    info = manifest.info
    assert info["rows_read"] == 75
    assert info["duplicates"] == 5
    assert info["rejected"] == len(BAD)
    assert info["examples"] + info["heldout"] == 60
    assert 0 < info["heldout"] < 40
    assert info["by_source"].keys() == {"here", "5"}
    assert sum(info["by_source"].values()) == info["examples"] == manifest.rows
    assert sum(info["heldout_by_source"].values()) == info["heldout"]
    assert len(info["files"]) == 7
    found = table_of(store, manifest) + table_of(store, manifest, "/heldout")
    texts = {(row["turns"][0]["text"], row["turns"][-1]["text"]) for row in found}
    assert texts == set(PAIRS)
    roles = sorted(tuple(turn["role"] for turn in row["turns"]) for row in found)
    assert roles == [("user", "assistant")] * 59 + [("user", "input", "assistant")]
    first = next(row for row in found if row["turns"][0]["text"] == PAIRS[10][0])
    assert (Path(first["file"]).name, first["row"]) == ("b.jsonl.gz", 1)  # the smallest of three
    for row in found:
        where = Path(row["file"]).name
        if not where.startswith(("b", "more")):
            number = PAIRS.index((row["turns"][0]["text"], row["turns"][-1]["text"]))
            assert row["row"] == number % 10 + 1


def test_parts_are_ranges_of_ids_in_order(mixed):
    store, manifest, _, _ = mixed
    ids = [row["example_id"] for row in table_of(store, manifest)]
    assert all(a < b for a, b in pairwise(ids))
    for part in manifest.parts:
        table = store.read_part(manifest.folder, part)
        assert table.schema.remove_metadata() == EXAMPLES
        low, high = (int(part.unit[5:]) + k for k in (0, 1))
        assert all(low / 4 <= i / 2**63 < high / 4 for i in table["example_id"].to_pylist())
    assert len({part.unit for part in manifest.parts}) == len(manifest.parts) <= 4
    assert sorted(row["example_id"] for row in read_examples(store, manifest).take_all()) == ids


def test_rejected_rows_say_what_where_and_why(mixed):
    store, manifest, _, top = mixed
    found = sorted(table_of(store, manifest, "/rejected"), key=lambda row: row["row"])
    assert list(found[0]) == REJECTED.names
    assert [row["row"] for row in found] == list(range(13, 13 + len(BAD)))
    for row, (raw, reason) in zip(found, BAD, strict=True):
        assert row["raw"] == raw.decode(errors="replace")
        assert row["reason"].startswith(reason)
        assert row["file"] == f"{top}/in/a.jsonl"
    reasons = {name: (count, place) for name, count, place in manifest.info["rejected_reasons"]}
    assert reasons["not JSON"] == (2, f"{top}/in/a.jsonl:13")
    assert reasons["empty field 'output'"] == (2, f"{top}/in/a.jsonl:16")


def test_rerun_returns_the_manifest_without_work(mixed):
    store, manifest, config, _ = mixed
    nowhere = config.model_copy(update={"path": "/nowhere"})
    assert ingest(store, nowhere, folder="corpus/x", fingerprint="x") == manifest


def test_ids_do_not_depend_on_files_order_or_format(mixed):
    """The same content in other files, order and formats, with more rows beside it."""
    store, manifest, _, top = mixed
    other = top / "other"
    other.mkdir()
    new = [("new question", "new answer")]
    inputs = {PAIRS[3][0]: "an input"}
    items = [
        {"instruction": q, "input": inputs.get(q), "output": a, "kind": "here"}
        for q, a in (PAIRS[:40] + new)[::-1]
    ]
    (other / "1.jsonl").write_bytes(lines(items[:13]))
    pq.write_table(pa.Table.from_pylist(items[13:]), other / "2.parquet")
    columns = {"source": "kind"}
    config = CorpusConfig(path=f"{other}/*", columns=columns, heldout_share=0.3, num_parts=9)
    again = ingest(store, config, folder="corpus/y", fingerprint="y")
    for below in ("", "/heldout"):
        was = {
            row["example_id"]
            for row in table_of(store, manifest, below)
            if row["source"] == "here" and "saved" not in row["file"]
        }
        now = {row["example_id"]: row for row in table_of(store, again, below)}
        assert was <= now.keys()
        assert all(now[i]["turns"][0]["text"] == "new question" for i in now.keys() - was)


def test_a_column_that_tells_no_source_is_left_out(local_ray, store, tmp_path, monkeypatch):
    monkeypatch.setattr("s2l_ray.corpus.ingest.MAX_SOURCES", 2)
    items = [
        {"instruction": f"q{n}", "output": "a", "source": f"https://example.org/{n}"}
        for n in range(3)
    ]
    (tmp_path / "web.jsonl").write_bytes(lines(items))
    config = CorpusConfig(path=str(tmp_path / "web.jsonl"))
    wanted = (
        r"3 sources in the column 'source' \(the first is 'https://example.org/0'\), .* at most 2"
    )
    with pytest.raises(ValueError, match=wanted):
        ingest(store, config, folder="corpus/many", fingerprint="many")
    config = CorpusConfig(path=config.path, columns={"source": None}, source="web")
    found = ingest(store, config, folder="corpus/one", fingerprint="one")
    assert found.info["by_source"] == {"web": 3}


def test_ray_dataset_with_numbered_duplicates_and_heldout_by_content(mixed):
    store, _, _, _ = mixed
    items = [{"prompt": q, "response": a, "source": s} for q, a in PAIRS for s in ("s", "t")]
    items += items[:3] * 2 + [{"prompt": "p", "response": "", "source": "s"}]
    dataset = ray.data.from_items(items, override_num_blocks=3)
    config = CorpusConfig(path="-", duplicates="number", heldout_share=0.4, num_parts=3)
    manifest = ingest(store, config, folder="corpus/z", fingerprint="z", dataset=dataset)
    kept, held = (table_of(store, manifest, below) for below in ("", "/heldout"))
    ids = [row["example_id"] for row in kept + held]
    assert len(ids) == len(set(ids)) == len(items) - 1
    assert manifest.info["duplicates"] == 6
    assert manifest.info["rejected_reasons"] == [["empty field 'response'", 1, "dataset:0"]]
    assert json.loads(table_of(store, manifest, "/rejected")[0]["raw"])["prompt"] == "p"
    sides = [{row["turns"][0]["text"] for row in side} for side in (kept, held)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 60
    for row in kept + held:  # numbered from the id up
        own = example_id_of(
            row["source"], content_of([(turn["role"], turn["text"]) for turn in row["turns"]])
        )
        assert 0 <= row["example_id"] - own <= 2
    mixed_up = ray.data.from_items(items[::-1], override_num_blocks=2)
    mark, again, fewer = (
        fingerprint_of(config, digest_of(each, config))
        for each in (dataset, mixed_up, dataset.limit(9))
    )
    assert mark == again != fewer
    grown = digest_of(dataset, config) | {"rows": len(items) - 1}
    with pytest.raises(ValueError, match=rf"had {len(items) - 1} rows, and {len(items)} when"):
        ingest(store, config, folder="corpus/w", fingerprint="w", dataset=dataset, digest=grown)


def test_faults_stop_the_run_with_a_plain_value_error(local_ray, tmp_path):
    store = Store(tmp_path / "run")
    good = lines([{"prompt": q, "response": a} for q, a in PAIRS])

    def fault(name: str, data: bytes, **settings) -> str:
        (tmp_path / name).write_bytes(data)
        config = CorpusConfig(path=str(tmp_path / name), num_parts=1, **settings)
        with pytest.raises(ValueError) as caught:
            ingest(store, config, folder=f"corpus/{name}", fingerprint="f")
        assert type(caught.value) is ValueError
        assert store.manifest(f"corpus/{name}") is None
        assert "Failed to" not in str(caught.value)
        return str(caught.value)

    assert "cut.jsonl.gz: cannot be read as jsonl: Truncated" in fault(
        "cut.jsonl.gz", gzip.compress(good)[:-30]
    )
    said = fault(
        "few.jsonl", good + b'{"prompt": 1}\n{"prompt": "p", "answer": "b"}\n' + b"x\n" * 2
    )
    assert "corpus: 4 of 64 rows (6.2%) rejected, more than corpus.max_rejected_share 1.0%" in said
    assert f"most common: not JSON (2; first at {tmp_path}/few.jsonl:63)" in said
    assert said.endswith(f"rejected rows: {tmp_path}/run/corpus/few.jsonl/rejected")
    rejected = store.manifest("corpus/few.jsonl/rejected")
    assert rejected is not None and rejected.rows == 4
    assert "no examples in 0 rows" in fault("empty.jsonl", b"\n\n")


def test_files_that_cannot_be_read(tmp_path):
    """What the readers say, without Ray."""

    def said(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        [file] = resolve(CorpusConfig(path=str(tmp_path / name)))
        with pytest.raises(ValueError) as caught:
            list(records(file, "train"))
        return str(caught.value)

    assert f"{tmp_path}/x.parquet: cannot be read as parquet" in said("x.parquet", b"no Parquet")
    cut = pa.compress(b"{}\n" * 99, codec="zstd", asbytes=True)[:-3]
    assert "cannot be read as jsonl" in said("x.jsonl.zst", cut)
    assert "cannot be read as jsonl" in said("x.jsonl.gz", b"no gzip file")
    assert "one JSON list" in said("x.json", b'[\n {"a": 1}\n]\n')


def test_resolve(tmp_path, monkeypatch):
    for name in ("a.jsonl", "b/c.jsonl.gz", "b/d/e.parquet", "f[1].jsonl", "g.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1234")
    monkeypatch.chdir(tmp_path)

    def names(path: str | list[str], **settings) -> list[str]:
        return [file.name for file in resolve(CorpusConfig(path=path, **settings))]

    assert names("*.jsonl") == ["a.jsonl", "f[1].jsonl"]
    assert names("f[1].jsonl") == ["f[1].jsonl"]
    assert names("b/**/*.parquet") == ["b/d/e.parquet"]
    assert names("**/*") == ["a.jsonl", "b/c.jsonl.gz", "b/d/e.parquet", "f[1].jsonl"]
    assert names(["b", "b/*"]) == ["b/c.jsonl.gz", "b/d/e.parquet"]
    assert names(f"file://{tmp_path}/b") == [
        f"file://{tmp_path}/b/c.jsonl.gz",
        f"file://{tmp_path}/b/d/e.parquet",
    ]
    assert names(".", format="parquet") == ["./b/d/e.parquet"]
    assert names("g.txt", format="jsonl") == ["g.txt"]
    sizes = {file.name: file.bytes for file in resolve(CorpusConfig(path="**/*"))}
    assert (sizes["a.jsonl"], sizes["b/c.jsonl.gz"]) == (4, 16)
    for path in ("missing.jsonl", "missing/*.jsonl", "*.csv"):
        with pytest.raises(ValueError, match=r"corpus.path: '?missing|corpus.path: '\*.csv'"):
            names(["a.jsonl", path])
    with pytest.raises(ValueError, match=r"g.txt: no known ending"):
        names("g.txt")
    data = datasets.Dataset.from_list([{"prompt": "p", "completion": "c"}])
    datasets.DatasetDict(train=data).save_to_disk("saved")
    assert names("saved") == ["saved/train/data-00000-of-00001.arrow"]
    with pytest.raises(ValueError, match=r"no split 'test' .*found train"):
        names("saved", split="test")


def test_fingerprint_follows_content_and_settings(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"prompt": "p", "response": "r"}\n')
    config = CorpusConfig(path=str(file))
    first = fingerprint_of(config)
    file.touch()
    assert fingerprint_of(config) == first == fingerprint_of(config, seed=1)
    other = config.model_copy(update={"max_rejected_share": 0.5})
    assert fingerprint_of(other) == first  # it changes no row
    other = config.model_copy(update={"duplicates": "number"})
    assert fingerprint_of(other) != first
    held = config.model_copy(update={"heldout_share": 0.5})
    assert fingerprint_of(held, seed=1) != fingerprint_of(held, seed=2)
    file.write_bytes(b'{"prompt": "p", "response": "s"}\n')
    assert fingerprint_of(config) != first


def test_example_id_is_63_bits_of_source_and_canonical_turns():
    turns = [("user", "é"), ("assistant", "a")]
    digest = hashlib.blake2b('"s"[["user","é"],["assistant","a"]]'.encode(), digest_size=8)
    assert example_id_of("s", content_of(turns)) == int(digest.hexdigest(), 16) >> 1


def parsed(items: list[tuple[int, str, str, int]]) -> pa.Table:
    """(example_id, answer, file, row) of rows as the shuffle brings them."""
    return pa.Table.from_pylist(
        [
            {
                "part": 0,
                "example_id": i,
                "source": "s",
                "file": file,
                "row": row,
                "heldout": False,
                "turns": [{"role": "user", "text": "q"}, {"role": "assistant", "text": a}],
            }
            for i, a, file, row in items
        ],
        schema=tables.PARSED,
    )


def test_duplicates_are_dropped_numbered_or_a_collision():
    table = parsed([(8, "a", "f", 20), (9, "b", "f", 1), (8, "a", "f", 3), (8, "a", "e", 30)])
    dropped, count = tables.settle(table, "drop", (0, 11))
    assert count == 2
    assert [(r["example_id"], r["file"], r["row"]) for r in dropped.to_pylist()] == [
        (8, "e", 30),
        (9, "f", 1),
    ]
    numbered, count = tables.settle(table, "number", (0, 11))
    assert count == 2
    assert [(r["example_id"], r["file"], r["row"]) for r in numbered.to_pylist()] == [
        (0, "f", 20),
        (8, "e", 30),
        (9, "f", 1),
        (10, "f", 3),  # past the part's end: from its start
    ]
    table = parsed([(8, "a", "f", 20), (9, "b", "f", 1), (8, "c", "e", 3)])
    for duplicates in ("drop", "number"):
        with pytest.raises(ValueError, match="example_id 8 stands for two contents: e:3 and f:20"):
            tables.settle(table, duplicates, (0, 11))


def test_detect_prefers_config_then_chats_then_pairs():
    assert detect([["prompt", "messages", "response"]], {}, "f").messages == "messages"
    both = ["question", "answer", "prompt", "completion"]
    assert detect([both], {}, "f").output == "completion"
    assert detect([["x"], ["question", "answer"]], {}, "f").instruction == "question"
    found = detect([["q", "a", "ctx"]], {"instruction": "q", "output": "a", "input": "ctx"}, "f")
    assert found == Columns("q", "a", "ctx", None, "source")
    dolly = ["instruction", "context", "response", "category"]
    assert detect([dolly], {}, "f") == Columns("instruction", "response", "context", None, "source")
    orca = ["id", "system_prompt", "question", "response"]
    assert detect([orca], {}, "f") == Columns(
        "question", "response", "input", None, "source", "system_prompt"
    )
    assert detect([["prompt", "best"]], {"output": "best"}, "f").instruction == "prompt"
    assert detect([["talk", "from"]], {"messages": "talk", "source": "from"}, "f") == Columns(
        messages="talk", source="from"
    )
    with pytest.raises(
        ValueError,
        match=r"f: no column 'outptu' \(corpus.columns.output\); "
        r"found instruction, output; nearest: output",
    ):
        detect([["instruction", "output"]], {"output": "outptu"}, "f")
    with pytest.raises(ValueError, match=r"f: no columns of a known shape: found a, b"):
        detect([["a", "b"]], {}, "f")
    with pytest.raises(ValueError, match="both messages and instruction"):
        detect([["m", "i"]], {"messages": "m", "instruction": "i"}, "f")


def test_what_a_pair_s_prompt_is_about_and_what_stands_before_it():
    columns = Columns("question", "answer", "context", None, "source", "system")
    row = {"question": "q", "answer": "a", "context": "c", "system": "s"}
    turns = [("system", "s"), ("user", "q"), ("input", "c"), ("assistant", "a")]
    assert parse(row, columns, "x")[1] == turns
    assert parse(row | {"context": None, "system": " "}, columns, "x")[1] == [turns[1], turns[3]]
    with pytest.raises(BadRow, match="wrong type of 'context'"):
        parse(row | {"context": ["c"]}, columns, "x")


def test_chats():
    chat = Columns(messages="messages", source="source")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    record = {
        "messages": [
            message("system", ""),
            message("user", parts),
            message("assistant", "c"),
            message("user", " d "),
        ]
    }
    source, turns = parse(record, chat, "s")
    assert source == "s"
    assert turns == [("system", ""), ("user", "ab"), ("assistant", "c"), ("user", " d ")]
    user = message("user", "u")
    for messages, category in [
        ("text", "wrong type of 'messages'"),
        (["text"], "wrong type in 'messages'"),
        ([], "no assistant turn"),
        ([user], "no assistant turn"),
        ([message("assistant", "a"), user], "the assistant turn comes first, without a prompt"),
        ([user, message("tool", "t")], "unknown role"),
        ([user, {"content": "c"}], "missing field 'role'"),
        ([user, {"role": "assistant"}], "missing field 'content'"),
        ([user, message("assistant", "")], "empty field 'content'"),
        ([user, message("assistant", None)], "empty field 'content'"),
        ([user, message("assistant", 3)], "wrong type of 'content'"),
        ([message("user", [{"type": "image"}])], "wrong type of 'content'"),
    ]:
        with pytest.raises(BadRow) as caught:
            parse({"messages": messages}, chat, "s")
        assert caught.value.category == category
        assert caught.value.reason.startswith(category)


def test_export_row_round_trip():
    for turns in (
        [("user", "q"), ("assistant", "a")],
        [("user", "q"), ("input", "i"), ("assistant", "a")],
        [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")],
    ):
        stored = [{"role": role, "text": text} for role, text in turns]
        for shape in ("alpaca", "prompt_response", "messages"):
            if len(turns) == 5 and shape != "messages":
                with pytest.raises(ValueError, match="use messages"):
                    export_row(stored, "s", shape)
                continue
            row = export_row(stored, "s", shape)
            back = parse(row, detect([row], {}, "f"), "other")
            if len(turns) == 3 and shape != "alpaca":
                assert back == ("s", [("user", "q\n\ni"), ("assistant", "a")])
            else:
                assert back == ("s", turns)
    with pytest.raises(ValueError, match="found 'csv', wanted alpaca"):
        export_row([], "s", "csv")
