"""Which files a path means, their fingerprint, and files that cannot be read."""

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
    """The configuration of the demo, from any folder; the rows are those that demo-corpus writes,
    however the file is divided."""
    config = load(REPOSITORY / "configs/demo.yaml").corpus
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
    names = [each.name for each in resolve(CorpusConfig(path=["demo", "more.jsonl"]))]
    assert names == ["demo", "more.jsonl"]
    (tmp_path / "demo").mkdir()
    with pytest.raises(ValueError, match=r"'demo' is the built-in corpus, but .*\./demo"):
        resolve(config)


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
