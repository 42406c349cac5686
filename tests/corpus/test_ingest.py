"""Sources of every format through the corpus stage: ids, parts, duplicates, rejected rows."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from support.runs import ids_of

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.identity import content_of, example_id_of
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.parsing import digest_of
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.sources import fingerprint_of
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
    (b'["a"]', "not an object: got a list"),
    (b'{"instruction": "a"}', "missing field 'output': found instruction"),
    (b'{"instruction": "a", "output": " "}', "empty field 'output'"),
    (b'{"instruction": "a", "output": null}', "empty field 'output': null"),
    (
        b'{"instruction": "a", "output": 7}',
        "wrong type of 'output': expected a string, got a number",
    ),
    (
        b'{"instruction": "a", "output": "b", "source": []}',
        "wrong type of 'source': expected a string, got a list",
    ),
    (b'{"instruction": "a", "output": "b\xff"}', "not UTF-8: byte 0xff at byte 34"),
    (b'{"instruction": "a", "output": "\\ud800"}', "not Unicode text: half of a surrogate pair"),
    (b"[" * 100_000, "nested too deep: the limit is 100"),
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
    assert sorted(ids_of(store, manifest)) == ids


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
    assert reasons["not JSON"] == (1, f"{top}/in/a.jsonl:13")
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


def test_calls_and_tools_have_the_same_ids_in_every_format(local_ray, store, tmp_path):
    """In Parquet the arguments of all calls share one struct, with nulls for what is absent."""
    rows = []
    for number, (name, arguments) in enumerate(
        [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"}), ("add", {"a": 1, "b": 2})]
    ):
        call = {"id": f"c{number}", "function": {"name": name, "arguments": arguments}}
        keys = {key: {"type": "number"} for key in arguments}
        chat = [
            {"role": "user", "content": "Do it."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3", "tool_call_id": f"c{number}"},
            {"role": "assistant", "content": "3", "reasoning_content": "r", "weight": number % 2},
        ]
        rows.append({"messages": chat, "tools": [{"name": name, "parameters": keys}]})
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    found = []
    for name in ("a.jsonl", "b.parquet", "saved"):
        config = CorpusConfig(path=str(tmp_path / name), num_parts=2, max_rejected_share=0)
        manifest = ingest(store, config, folder=f"corpus/{name}", fingerprint=name)
        found.append([
            {key: row[key] for key in ("example_id", "turns", "tools")}
            for row in table_of(store, manifest)
        ])  # fmt: skip
    config = CorpusConfig(path="-", num_parts=2)
    dataset = ray.data.from_items(rows)
    manifest = ingest(store, config, folder="corpus/data", fingerprint="data", dataset=dataset)
    found.append([
        {key: row[key] for key in ("example_id", "turns", "tools")}
        for row in table_of(store, manifest)
    ])  # fmt: skip
    assert all(each == found[0] for each in found)
    assert len(found[0]) == 3  # none is a duplicate of another
    calls = sorted(row["turns"][1]["tool_calls"] for row in found[0])
    assert calls == [
        '[{"id":"c0","type":"function","function":{"name":"weather","arguments":{"city":"Oslo"}}}]',
        '[{"id":"c1","type":"function","function":{"name":"weather","arguments":{"city":"Rome"}}}]',
        '[{"id":"c2","type":"function","function":{"name":"add","arguments":{"a":1,"b":2}}}]',
    ]
    assert {row["tools"] for row in found[0]} == {
        '[{"type":"function","function":{"name":"weather","parameters":{"city":{"type":"number"}}}}]',
        '[{"type":"function","function":{"name":"add","parameters":{"a":{"type":"number"},"b":'
        '{"type":"number"}}}}]',
    }
    assert sorted(row["turns"][3]["train"] is False for row in found[0]) == [False, True, True]


def test_a_column_that_tells_no_source_is_left_out(local_ray, store, tmp_path, monkeypatch):
    monkeypatch.setattr("s2l_ray.corpus.ingest.MAX_SOURCES", 2)
    items = [
        {"instruction": f"q{n}", "output": "a", "source": f"https://example.org/{n}"}
        for n in range(3)
    ]
    (tmp_path / "web.jsonl").write_bytes(lines(items))
    config = CorpusConfig(path=str(tmp_path / "web.jsonl"))
    expected = (
        r"at most 2 sources, got 3 in the column 'source' \(the first is 'https://example.org/0'\)"
    )
    with pytest.raises(ValueError, match=expected):
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
        own = example_id_of(row["source"], content_of(Example(row["turns"], row["tools"])))
        assert 0 <= row["example_id"] - own <= 2
    mixed_up = ray.data.from_items(items[::-1], override_num_blocks=2)
    first, again, fewer = (
        fingerprint_of(config, digest_of(each, config))
        for each in (dataset, mixed_up, dataset.limit(9))
    )
    assert first == again != fewer
    grown = digest_of(dataset, config) | {"rows": len(items) - 1}
    with pytest.raises(
        ValueError, match=rf"had {len(items) - 1} rows at first and {len(items)} when"
    ):
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
