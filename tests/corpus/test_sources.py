"""Which files a path means, their fingerprint, and files that cannot be read."""

import json
from collections import Counter

import datasets
import pyarrow as pa
import pytest
from support.head import REPOSITORY

from s2l_ray.config import CorpusConfig, load
from s2l_ray.corpus import demo
from s2l_ray.corpus.files.ranges import ranges_of
from s2l_ray.corpus.reading import read_rows
from s2l_ray.corpus.sources import fingerprint_of, resolve


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
    with pytest.raises(ValueError, match=r"g.txt: unknown ending"):
        names("g.txt")
    data = datasets.Dataset.from_list([{"prompt": "p", "completion": "c"}])
    datasets.DatasetDict(train=data).save_to_disk("saved")
    assert names("saved") == ["saved/train/data-00000-of-00001.arrow"]
    with pytest.raises(ValueError, match=r"no split 'test' .*found train"):
        names("saved", split="test")


def test_the_demo_needs_no_file(tmp_path, monkeypatch):
    """A built-in corpus, from any folder; the rows are those that demo-corpus writes, however the
    file is divided."""
    config = CorpusConfig(path="demo")
    [written] = resolve(CorpusConfig(path=str(demo.write(tmp_path / "corpus.jsonl"))))
    monkeypatch.chdir(tmp_path)
    [file] = resolve(config)
    assert (file.name, file.bytes, file.stamp) == ("demo", written.bytes, written.stamp)
    wanted = [(row.number, row.text) for row in read_rows(written, config)]
    assert len(wanted) == 6005
    pieces = ranges_of([file], 100_000, map)
    assert len(pieces) > 5
    rows = [(row.number, row.text) for piece in pieces for row in read_rows(piece, config)]
    assert rows == wanted
    (tmp_path / "more.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    paths = ["demo", "demo-uneven", "more.jsonl"]
    assert [each.name for each in resolve(CorpusConfig(path=paths))] == paths
    (tmp_path / "demo").mkdir()
    with pytest.raises(ValueError, match=r"'demo' is a built-in corpus, but .*\./demo"):
        resolve(config)


def test_the_corpus_in_which_selection_can_matter(tmp_path, monkeypatch):
    """As `make demo` reads it: large sources and small ones, and a test set of other questions with
    as many of each."""
    settings = load(REPOSITORY / "configs/demo.yaml")
    monkeypatch.chdir(tmp_path)

    def rows_of(path):
        config = CorpusConfig(path=path)
        [file] = resolve(config)
        return [json.loads(row.text) for row in read_rows(file, config)]

    rows, [test] = rows_of(settings.corpus.path), map(rows_of, settings.evaluation.files.values())
    sizes = Counter(row["source"] for row in rows)
    assert sorted(sizes.values()) == [40] * 12 + [700, 900, 1200]
    assert sizes["noisy_arithmetic"] == 0  # the source with wrong answers
    assert Counter(row["source"] for row in test) == dict.fromkeys(sizes, 30)
    asked = {row["instruction"] for row in rows}
    assert len(asked) == len(rows) and asked.isdisjoint(row["instruction"] for row in test)


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


def test_files_that_cannot_be_read(tmp_path):
    """What the readers say, without Ray."""

    def said(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        [file] = resolve(CorpusConfig(path=str(tmp_path / name)))
        with pytest.raises(ValueError) as caught:
            list(read_rows(file, CorpusConfig(path=str(tmp_path))))
        return str(caught.value)

    assert f"{tmp_path}/x.parquet: cannot be read as parquet" in said("x.parquet", b"no Parquet")
    cut = pa.compress(b"{}\n" * 99, codec="zstd", asbytes=True)[:-3]
    assert "cannot be read as jsonl" in said("x.jsonl.zst", cut)
    assert "cannot be read as jsonl" in said("x.jsonl.gz", b"no gzip file")
    assert "expected a JSON object per line, got a list" in said("x.jsonl", b'[\n {"a": 1}\n]\n')
