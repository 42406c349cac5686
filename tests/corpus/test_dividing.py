"""However reading is divided among tasks, the same parts are committed."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus import dividing
from s2l_ray.corpus.ingest import ingest

ROWS = [
    {"instruction": f"question {n} é\u2028", "output": f"answer {n % 7}" * (n % 5 + 1),
     "source": "ab"[n % 2]}
    for n in range(400)
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """JSON lines with duplicates and bad lines, plain and compressed; Parquet; a small file."""
    top = tmp_path_factory.mktemp("divided")
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    damaged = [*lines[:150], b"", b"not JSON", *lines[100:300], b'{"instruction": "a"}', b"\xff"]
    (top / "a.jsonl").write_bytes(b"\n".join(damaged))
    (top / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines[250:350])))
    pq.write_table(pa.Table.from_pylist(ROWS[300:]), top / "c.parquet", row_group_size=17)
    (top / "d.jsonl").write_bytes(b"\n".join([lines[0], b"bad", b"bad"]))
    return top


def committed(store, config, name, **how):
    ingest(store, config, folder=f"corpus/{name}", fingerprint="x", **how)
    places = ["", "/heldout", "/rejected"]
    found = [store.manifest(f"corpus/{name}{place}") for place in places]
    parts = [[(p.file, p.rows, p.checksum) for p in manifest.parts] for manifest in found]
    return parts, found[0].info


@pytest.mark.parametrize("duplicates", ["drop", "number"])
def test_the_same_parts_by_one_task_and_by_many(local_ray, store, folder, monkeypatch, duplicates):
    config = CorpusConfig(
        path=str(folder), num_parts=7, heldout_share=0.2, max_rejected_share=0.1,
        duplicates=duplicates,
    )  # fmt: skip
    reading = dividing.reading_of_files(config, 42)
    assert (len(reading.items), reading.num_groups) == (1, 1)
    parts, info = committed(store, config, f"one-{duplicates}")
    assert (info["rejected"], info["duplicates"]) == (5, 151)
    assert len(parts[0]) == 7
    monkeypatch.setattr(dividing, "SMALL_PACK", 500)
    monkeypatch.setattr(dividing, "LARGE_PACK", 500)
    monkeypatch.setattr(dividing, "SMALL_TABLE", 1)
    reading = dividing.reading_of_files(config, 42)
    assert len(reading.items) > 40
    assert reading.num_groups == 4  # CPUs
    assert committed(store, config, f"many-{duplicates}") == (parts, info)
    monkeypatch.setattr(dividing, "GROUP_BYTES", 1)
    assert dividing.reading_of_files(config, 42).num_groups == 7
    assert committed(store, config, f"most-{duplicates}") == (parts, info)


def test_the_same_parts_of_a_dataset_in_any_blocks(local_ray, store, monkeypatch):
    config = CorpusConfig(path="-", num_parts=5)
    one, many = (ray.data.from_items(ROWS + ROWS[:9], override_num_blocks=n) for n in (1, 7))
    once = committed(store, config, "one", dataset=one)
    assert once[1]["duplicates"] == 9
    monkeypatch.setattr(dividing, "SMALL_PACK", 500)
    monkeypatch.setattr(dividing, "SMALL_TABLE", 1)
    assert committed(store, config, "many", dataset=many) == once


def test_columns_are_looked_for_in_all_ranges_of_a_file(local_ray, store, tmp_path, monkeypatch):
    monkeypatch.setattr(dividing, "SMALL_PACK", 2000)
    monkeypatch.setattr(dividing, "LARGE_PACK", 2000)
    rows = [*ROWS[:100], {**ROWS[100], "frame": "be brief"}, *ROWS[101:200]]
    path = tmp_path / "late.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    for column, said in (("frame", None), ("fame", r"no column 'fame'; found .*nearest: frame")):
        config = CorpusConfig(path=str(path), columns={"system": column})
        assert len(dividing.reading_of_files(config, 42).items) > 4
        if said is None:
            manifest = ingest(store, config, folder="corpus/late", fingerprint="x")
            turns = [
                turn
                for part in manifest.parts
                for turns in store.read_part(manifest.folder, part)["turns"].to_pylist()
                for turn in turns
            ]
            assert [turn["text"] for turn in turns if turn["role"] == "system"] == ["be brief"]
            continue
        with pytest.raises(ValueError, match=said):
            ingest(store, config, folder="corpus/never", fingerprint="y")
    path.write_text('{"instruction": "a"}\n' * 1000)
    config = CorpusConfig(path=str(path), max_rejected_share=1.0)
    with pytest.raises(ValueError, match=r"late.jsonl: no columns of a known shape"):
        ingest(store, config, folder="corpus/none", fingerprint="z")


@pytest.mark.parametrize(
    ("total", "cpus", "packs", "groups"),
    [
        (5_000, 2, 1, 1),
        (14 * 2**20, 2, 2, 2),
        (500 * 2**20, 2, 8, 2),
        (50 * 2**30, 16, 501, 100),
        (640 * 2**30, 64, 501, 500),
        (14 * 2**20, 1000, 2, 3),
        (50 * 2**30, 1000, 501, 409),
    ],
)
def test_sizes(monkeypatch, total, cpus, packs, groups):
    """Packs and groups grow with the corpus and the cluster; tables between them stay large."""
    monkeypatch.setattr(dividing, "num_cpus", lambda: cpus)
    pack = dividing._pack_bytes(total)
    found = dividing._num_groups(10_000, total, pack)
    assert (-(-total // pack), found) == (packs, groups)
    assert pack / found >= 2**18 or found == 1
