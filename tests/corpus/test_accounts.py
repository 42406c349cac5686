"""Files that are passed over, files without a usable row, and rejections by file."""

import json
import logging
import os

import pytest

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.ingest import ingest
from s2l_ray.pipeline.told import corpus_told
from s2l_ray.store import Store
from s2l_ray.store.views import CorpusView

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 104857600\n"
PAGE = "<html><head><title>404</title></head><body>Not found</body></html>\n"


def lines(name, count):
    return "".join(
        json.dumps({"prompt": f"{name} {n}?", "response": "a"}) + "\n" for n in range(count)
    )


def keep_prompts_of_four(row):
    return row if row["prompt"].startswith("shard-0") else None


@pytest.fixture
def shards(tmp_path):
    for number in range(4):
        (tmp_path / f"shard-{number}.jsonl").write_text(lines(f"shard-{number}", 150))
    (tmp_path / "README.md").write_text("# data\n")
    (tmp_path / "shard-6.jsonl").touch()
    return tmp_path


def test_files_without_a_usable_row_stop_the_run_by_name(local_ray, shards, caplog):
    caplog.set_level(logging.INFO, logger="s2l_ray")
    store = Store(shards / "run")
    (shards / "shard-4.jsonl").write_text(POINTER)
    (shards / "shard-5.jsonl").write_text(PAGE)
    config = CorpusConfig(path=str(shards / "*"))
    with pytest.raises(ValueError) as caught:
        ingest(store, config, folder="corpus/lfs", fingerprint="f")
    assert str(caught.value).startswith(
        f"corpus: no row can be used of 2 files: {shards}/shard-4.jsonl (3 rows; Git LFS pointer: "
        f"not the file itself; run 'git lfs pull'); {shards}/shard-5.jsonl (1 row; HTML page: "
        "perhaps an error page; download the file again). Mend these files or leave them out"
    )
    assert f"corpus: passed over 1 file, empty: {shards}/shard-6.jsonl" in caplog.text
    assert f"corpus: passed over 1 file, unknown ending: {shards}/README.md" in caplog.text
    (shards / "shard-4.jsonl").unlink()
    (shards / "shard-5.jsonl").write_text(lines("shard-5", 50) + "bad\n" * 2)
    (shards / "shard-7.jsonl").write_text("\n")
    (shards / os.fsdecode(b"caf\xe9.jsonl")).write_text(lines("odd", 1))
    (shards / "shard-3.jsonl").write_text(lines("shard-3", 150) + "bad\n")
    manifest = ingest(store, config, folder="corpus/good", fingerprint="f")
    corpus = CorpusView(manifest)
    assert (corpus.examples, corpus.rejected) == (651, 3)
    assert corpus.files[0] == f"{shards}/caf\\xe9.jsonl"
    assert corpus.rejected_by_file == [
        [f"{shards}/shard-5.jsonl", 52, 2],
        [f"{shards}/shard-3.jsonl", 151, 1],
    ]
    assert corpus.files_without_rows == [f"{shards}/shard-7.jsonl"]
    assert ["unknown ending", 1, f"{shards}/README.md"] in corpus.passed_over
    told = corpus_told(config, corpus, "there")
    assert told[-2:] == [
        f"corpus: rejected rows by file: 2 of 52 in {shards}/shard-5.jsonl; 1 of 151 in "
        f"{shards}/shard-3.jsonl",
        f"corpus: 1 file without rows: {shards}/shard-7.jsonl",
    ]


def test_a_map_may_leave_out_whole_files(local_ray, shards):
    config = CorpusConfig(
        path=str(shards),
        map="corpus.test_accounts:keep_prompts_of_four",
        max_rejected_share=0.9,
    )
    manifest = ingest(Store(shards / "run"), config, folder="corpus/map", fingerprint="f")
    assert (manifest.rows, manifest.info["rejected"]) == (150, 450)
    assert CorpusView(manifest).unusable_files == []
