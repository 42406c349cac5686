"""hf:// against a hub on loopback that serves real Parquet, needs a token and is often busy."""

import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hub import COMMIT, TOKEN, Hub

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files import hub as hub_module
from s2l_ray.corpus.reading import read_rows
from s2l_ray.corpus.sources import find_all, fingerprint_of, resolve


def parquet(name, count=3):
    sink = io.BytesIO()
    rows = [{"prompt": f"{name} {n}?", "response": "a"} for n in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=2)
    return sink.getvalue()


CARD = {
    "configs": [
        {
            "config_name": "main",
            "data_files": [
                {"split": "train", "path": "main/tr*"},
                {"split": "test", "path": ["main/te*"]},
            ],
        },
        {"config_name": "socratic", "data_files": "socratic/*.parquet"},
    ]
}
REPOSITORIES = {
    "team/named": {
        "main": {
            "README.md": b"# A dataset",
            "data/train-00000-of-00002.parquet": parquet("train one"),
            "data/train-00001-of-00002.parquet": parquet("train two"),
            "data/test-00000-of-00001.parquet": parquet("test"),
        },
        "v1": {"data/train-00000-of-00001.parquet": parquet("old")},
    },
    "team/card": {
        "main": {
            "README.json": json.dumps(CARD).encode(),
            "main/train.parquet": parquet("main train"),
            "main/test.parquet": parquet("main test"),
            "socratic/all.parquet": parquet("socratic"),
        }
    },
    "team/lines": {
        "main": {"train.jsonl": b"{}"},
        "refs/convert/parquet": {
            "default/train/0000.parquet": parquet("converted train"),
            "default/test/0000.parquet": parquet("converted test"),
        },
    },
    "team/text": {"main": {"a.txt": b"a"}},
    "team/large": {
        "main": {"train.jsonl": b"{}"},
        "refs/convert/parquet": {"default/partial-train/0000.parquet": parquet("part")},
    },
}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # in the library and in ours
    hub_module.repository_of.cache_clear()
    with Hub(REPOSITORIES) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub
    hub_module.repository_of.cache_clear()


def prompts(path, **settings):
    config = CorpusConfig(path=path, **settings)
    rows = [row for file in resolve(config) for row in read_rows(file, config)]
    return [row.content["prompt"] for row in rows]


def three(name):
    return [f"{name} {n}?" for n in range(3)]


def test_a_split_of_a_dataset_is_read_in_place(hub):
    found = find_all(CorpusConfig(path="hf://team/named"))
    assert [file.name for file in found.files] == [
        "hf://team/named/data/train-00000-of-00002.parquet",
        "hf://team/named/data/train-00001-of-00002.parquet",
    ]
    assert {file.stamp for file in found.files} == {COMMIT["main"]}
    assert [*found.passed] == ["hf://team/named:default/test"]
    assert prompts("hf://team/named") == three("train one") + three("train two")
    assert prompts("hf://team/named", split="test") == three("test")
    assert prompts("hf://team/named:default/test") == three("test")
    assert prompts("hf://team/named@v1") == three("old")
    assert prompts(f"hf://team/named@{COMMIT['v1']}:default/train") == three("old")
    assert hub.refused > 3  # and none of it is seen


def test_the_card_tells_configurations_and_splits(hub):
    assert prompts("hf://team/card:main") == three("main train")
    assert prompts("hf://team/card:main/test") == three("main test")
    assert prompts("hf://team/card:socratic") == three("socratic")
    for path in ("hf://team/card", "hf://team/card:other"):
        with pytest.raises(ValueError, match=r"hf://team/card:main; found main, socratic"):
            resolve(CorpusConfig(path=path))
    with pytest.raises(ValueError, match=r"no split 'validation' .* found train, test"):
        resolve(CorpusConfig(path="hf://team/card:main/validation"))


def test_other_formats_are_read_as_the_hub_has_converted_them(hub):
    [file] = resolve(CorpusConfig(path="hf://team/lines"))
    assert file.stamp == COMMIT["refs/convert/parquet"]
    assert prompts("hf://team/lines") == three("converted train")
    for path, why in (
        ("hf://team/lines@main", "no Parquet files at the revision main"),
        ("hf://team/text", "no Parquet files, and the hub has not converted it"),
        ("hf://team/large", "converted only the beginning"),
    ):
        with pytest.raises(ValueError, match=f"corpus.path: {path}: .*{why}"):
            resolve(CorpusConfig(path=path))


def test_a_moving_branch_is_resolved_once(hub):
    config = CorpusConfig(path="hf://team/named")
    first = fingerprint_of(config)
    asked = hub.asked["info"]
    assert fingerprint_of(config) == first and resolve(config)
    assert hub.asked["info"] == asked


def test_what_the_hub_refuses_is_one_sentence_without_the_token(hub, monkeypatch):
    gone = "the hub has no such dataset or revision, or it is not public and the token in HF_TOKEN"
    for path in ("hf://team/gone", "hf://team/named@gone"):
        with pytest.raises(ValueError, match=f"corpus.path: {path}: {gone}") as caught:
            resolve(CorpusConfig(path=path))
        assert TOKEN not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    hub_module.repository_of.cache_clear()
    with pytest.raises(ValueError, match=gone) as caught:
        resolve(CorpusConfig(path="hf://team/named"))
    assert "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "hf://team",
        "hf://team/named/data",
        "hf://team/named:",
        "hf://team/named@",
        "hf://",
        "hf://a/b:c/d/e",
    ],
)
def test_paths_of_another_form_are_refused(path):
    with pytest.raises(ValueError, match="expected hf://owner/dataset, optionally followed by"):
        resolve(CorpusConfig(path=path))


def test_two_different_splits_are_refused(hub):
    with pytest.raises(ValueError, match=r"the path names the split 'test', and corpus.split 'tr"):
        resolve(CorpusConfig(path="hf://team/named:default/test", split="train"))
    assert prompts("hf://team/named:default/test", split="test") == three("test")


SCRIPT = """
import sys
import ray
from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.ingest import ingest
from s2l_ray.store import Store

ray.init("local", num_cpus=2, include_dashboard=False)
manifest = ingest(
    Store(sys.argv[1]), CorpusConfig(path="hf://team/named"), folder="corpus/x", fingerprint="x"
)
print("examples", manifest.info["examples"], manifest.info["passed_over"])
"""


@pytest.mark.slow
def test_tasks_read_a_dataset_of_a_hub(tmp_path):
    """With the token in the environment alone: it is in no file of the run, and in no output."""
    environment = dict(os.environ, HF_TOKEN=TOKEN, PYTHONPATH=os.pathsep.join(sys.path))
    with Hub(REPOSITORIES) as hub:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            env=environment | {"HF_ENDPOINT": hub.endpoint},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert "examples 6 [[\"of the split 'test'" in done.stdout, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()
