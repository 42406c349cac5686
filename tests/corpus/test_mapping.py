"""corpus.map: rows through a user's function, in this process and in Ray's."""

import json
import sys
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from support.parsed import check_bad, check_good, encoded, read

from s2l_ray.config import CorpusConfig, validate
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.parsing import digest_of
from s2l_ray.corpus.sources import fingerprint_of
from s2l_ray.errors import ConfigError
from s2l_ray.store import Store

MODULE = """
import re

SPACES = re.compile(r"\\s+")


def squeezed(text):
    return SPACES.sub(" ", text)


def to_chat(row):
    return {"messages": row["talk"], "tools": row["apis"]}


def to_pair(row):
    if row["level"] > 8:
        return f"too hard: level {row['level']}"
    if not row["answers"]:
        return None
    found = {"prompt": squeezed(row["task"]), "response": row["answers"][0]}
    row.clear()
    return found


NUMBER = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder alone, by a name that no other test has imported."""
    name = f"map_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def task(number, level=1, answers=("yes", "no")):
    return {"task": f"task \n {number}", "level": level, "answers": list(answers)}


def test_rows_are_mapped_before_columns_are_detected(module, tmp_path):
    rows = [task(1), task(2, level=9), task(3, answers=()), {"task": "no level"}, ["a list"]]
    path = tmp_path / "tasks.jsonl"
    found = read(path, b"\n".join([*map(encoded, rows), b"no JSON"]), map=f"{module}:to_pair")
    check_good(found[0], path, 1, "task 1", "yes")
    check_bad(found[1], path, 2, "rejected by corpus.map (too hard): level 9")
    check_bad(found[2], path, 3, "rejected by corpus.map")
    check_bad(found[3], path, 4, "corpus.map raised KeyError: 'level'")
    check_bad(found[4], path, 5, "corpus.map raised TypeError: list indices")
    check_bad(found[5], path, 6, "not JSON")
    assert [row["category"] for row in found[1:4]] == [
        "rejected by corpus.map (too hard)", "rejected by corpus.map", "corpus.map raised KeyError",
    ]  # fmt: skip
    assert [json.loads(row["raw"]) for row in found[1:5]] == rows[1:]


def test_a_rejected_row_of_parquet_is_kept_as_it_was(module, tmp_path):
    """Although the function has changed it."""
    path = tmp_path / "tasks.parquet"
    rows = [task(1), task(2, answers=[" "]), task(3, level=9)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = read(path, map=f"{module}:to_pair")
    check_good(found[0], path, 1, "task 1", "yes")
    check_bad(found[1], path, 2, "empty field 'response'")
    assert [json.loads(row["raw"]) for row in found[1:]] == rows[1:]


def test_nulls_of_arrow_s_structs_are_no_content_of_mapped_rows_either(module, tmp_path):
    rows = []
    for name, arguments in (("weather", {"city": "Oslo"}), ("add", {"a": 1, "b": 2})):
        calls = [{"name": name, "arguments": arguments}]
        talk = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}]
        rows.append({"talk": talk, "apis": [{"name": name, "parameters": arguments}]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "calls.parquet")
    found = read(tmp_path / "calls.parquet", map=f"{module}:to_chat")
    lines = b"\n".join(map(encoded, rows))
    again = read(tmp_path / "calls.jsonl", lines, map=f"{module}:to_chat")
    assert [row["example_id"] for row in found] == [row["example_id"] for row in again]
    assert '"arguments":{"city":"Oslo"}' in found[0]["turns"][1]["tool_calls"]


def test_the_module_s_source_is_part_of_the_fingerprint(module, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(encoded(task(1)))
    (tmp_path / "other.py").write_text(MODULE + "\n")
    plain, one, other = (
        fingerprint_of(CorpusConfig(path="a.jsonl", map=name))
        for name in (None, f"{module}:to_pair", "other:to_pair")
    )
    sys.modules.pop("other")
    assert len({plain, one, other}) == 3
    # What is imported counts, not what the file says by now.
    (tmp_path / f"{module}.py").write_text("")
    assert fingerprint_of(CorpusConfig(path="a.jsonl", map=f"{module}:to_pair")) == one


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_to_be_found:f", "cannot be imported: ModuleNotFoundError: No module named"),
        ("MODULE:to_pear", "expected a function, got None"),
        ("MODULE:NUMBER", "expected a function, got 3"),
        ("sys:exit", "expected a module with Python source, got no file"),
        ("broken:f", "cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused(module, tmp_path, name, message):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    name = name.replace("MODULE", module)
    with pytest.raises(ValueError, match=f"corpus.map: {name!r}:? {message}"):
        fingerprint_of(CorpusConfig(path="a.jsonl", map=name))


@pytest.mark.parametrize("name", ["rows", "rows:", ":f", "a b:f", "rows:f()", "a..b:f"])
def test_a_name_of_another_form_is_refused(name):
    data = {"run_dir": "r", "corpus": {"path": "a", "map": name},
            "proxy": {"model": {"name": "m"}, "num_checkpoints": 2}}  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"corpus\.map: expected module:name, such as my_rows:to_pair"
    ):
        validate(data)


def test_ray_s_tasks_need_no_copy_of_the_module(local_ray, module, tmp_path):
    """Of files and of a Ray Dataset: the module is gone from the disk before they run."""
    rows = [task(n, level=n) for n in range(30)]
    (tmp_path / "tasks.jsonl").write_bytes(b"\n".join(map(encoded, rows)))
    rules = {"map": f"{module}:to_pair", "max_rejected_share": 0.8, "num_parts": 2}
    config = CorpusConfig(path=str(tmp_path / "tasks.jsonl"), **rules)
    fingerprint = fingerprint_of(config)
    (tmp_path / f"{module}.py").unlink()
    store = Store(tmp_path / "run")
    corpus = ingest(store, config, folder=f"corpus/{fingerprint}", fingerprint=fingerprint)
    reasons = [["rejected by corpus.map (too hard)", 21, f"{config.path}:10"]]
    assert (corpus.rows, corpus.info["rejected_reasons"]) == (9, reasons)

    dataset = ray.data.from_items(rows, override_num_blocks=2)
    digest = digest_of(dataset, config)
    assert digest["rows"] == 30
    same = ingest(store, config, folder="corpus/dataset", fingerprint="f", dataset=dataset)
    assert same.rows == 9
    texts = [
        {row["turns"][0]["text"] for part in each.parts
         for row in store.read_part(each.folder, part).to_pylist()}
        for each in (corpus, same)
    ]  # fmt: skip
    assert texts[0] == texts[1] == {f"task {n}" for n in range(9)}


def test_a_function_with_many_reasons_does_not_fill_the_manifest(local_ray, module, tmp_path):
    source = "def f(row):\n    return f\"row {row['n']} is bad\"\n"
    (tmp_path / f"{module}.py").write_text(source)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(encoded({"n": n}) for n in range(500)))
    config = CorpusConfig(path="a.jsonl", map=f"{module}:f", max_rejected_share=1, num_parts=1)
    with pytest.raises(ValueError, match="no examples in 500 rows"):
        ingest(Store(tmp_path / "run"), config, folder="corpus/f", fingerprint="f")
