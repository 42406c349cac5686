"""Samples of corpora: how many rows there are, without reading all of them."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus import sample as module
from s2l_ray.corpus.sample import sample


def lines(count, start=0):
    """Rows whose lengths change through the file, as those of sources that follow one another."""
    return [
        {
            "instruction": f"question {n}",
            "output": f"{n * 7919:010x}" * (1 if n < count // 2 else 20),
        }
        for n in range(start, start + count)
    ]


def write(path, rows, opener=open):
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def test_a_small_corpus_is_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(300))
    found = sample(CorpusConfig(path=path, heldout_share=0.2), seed=1)
    assert (found.rows, found.counted, found.sampled) == (300, True, 300)
    assert 30 < found.heldout < 90 and found.rejected == 0
    assert found.examples.num_rows == 300 - found.heldout
    assert found.seconds > 0


def test_a_large_corpus_is_estimated_from_places_all_over_it(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(60_000))
    found = sample(CorpusConfig(path=path), seed=1)
    assert not found.counted and found.sampled < 20_000
    assert found.rows == pytest.approx(60_000, rel=0.05)
    texts = {len(turns[-1]["text"]) for turns in found.examples["turns"].to_pylist()}
    assert len(texts) == 2  # both halves


def test_a_large_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", lines(60_000))
    read = []
    real = module.read_batches

    def counted(file, config):
        for each in real(file, config):
            read.append(module._bytes_of(each))
            yield each

    monkeypatch.setattr(module, "read_batches", counted)
    found = sample(CorpusConfig(path=path), seed=1)
    assert sum(read) < 0.5 * found.bytes


def test_compressed_text_is_counted_by_how_it_expands(tmp_path, monkeypatch):
    rows = [row | {"output": random.randbytes(50).hex()} for row in lines(20_000)]
    path = write(tmp_path / "a.jsonl.gz", rows, gzip.open)
    size = sum(len(json.dumps(row)) + 1 for row in rows)
    found = sample(CorpusConfig(path=path), seed=1)
    assert (found.rows, found.counted, found.bytes) == (20_000, True, size)
    monkeypatch.setattr(module, "WHOLE", 2**19)  # of about 3 MB
    found = sample(CorpusConfig(path=path), seed=1)
    assert not found.counted and found.sampled < 20_000
    assert found.bytes == pytest.approx(size, rel=0.2)
    assert found.rows == pytest.approx(20_000, rel=0.2)


def test_parquet_is_counted_by_its_footers(tmp_path):
    table = pa.Table.from_pylist(lines(40_000))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2000, compression="none")
    found = sample(CorpusConfig(path=str(tmp_path / "a.parquet")), seed=1)
    assert (found.rows, found.counted) == (40_000, True)
    assert found.sampled < 40_000
    assert len({len(turns[-1]["text"]) for turns in found.examples["turns"].to_pylist()}) == 2


def test_rejected_rows_are_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", [*lines(50), {"instruction": "a", "output": ""}])
    found = sample(CorpusConfig(path=path), seed=1)
    assert (found.rows, found.rejected, found.examples.num_rows) == (51, 1, 50)


def test_csv_is_counted(tmp_path):
    rows = "".join(f"question {n},answer {n}\n" for n in range(500))
    (tmp_path / "a.csv").write_text("instruction,output\n" + rows)
    found = sample(CorpusConfig(path=str(tmp_path / "a.csv")), seed=1)
    assert (found.rows, found.counted) == (500, True)
