"""corpus.columns.topic: a label beside the source, which changes nothing else."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.sources import fingerprint_of

TOPICS = ["algebra", None, "", 7, "geometry", "algebra"]  # a number is a name, as for sources


def rows(topics=TOPICS):
    found = []
    for number, topic in enumerate(topics):
        row = {"instruction": f"question {number}", "output": f"{number}", "source": "s"}
        found.append(row | {"topic": topic})
    found[-1]["history"] = [["a", "b"]]  # read one by one
    return found


def examples_in(store, manifest):
    tables = [store.read_part(manifest.folder, part) for part in manifest.parts]
    return pa.concat_tables(tables)


@pytest.fixture
def made(local_ray, store, tmp_path):
    def make(name, write, **settings):
        write(tmp_path / name)
        config = CorpusConfig(path=str(tmp_path / name), num_parts=2, **settings)
        folder = f"corpus/{fingerprint_of(config)}"
        return ingest(store, config, folder=folder, fingerprint="f")

    return make


def as_json(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))


def as_parquet(path):
    texts = [None if row["topic"] is None else str(row["topic"]) for row in rows()]
    pq.write_table(pa.Table.from_pylist(rows(texts)), path)


@pytest.mark.parametrize(("name", "write"), [("a.jsonl", as_json), ("a.parquet", as_parquet)])
def test_topics_are_kept_with_the_examples(store, made, name, write):
    plain, labelled = made(name, write), made(name, write, columns={"topic": "topic"})
    before, after = examples_in(store, plain), examples_in(store, labelled)
    assert before.column_names == [each for each in after.column_names if each != "topic"]
    assert before.equals(after.drop_columns("topic"))  # ids too
    questions = [turns[-2]["text"] for turns in after["turns"].to_pylist()]
    found = dict(zip(questions, after["topic"].to_pylist(), strict=True))
    wanted = ["algebra", None, None, "7", "geometry", "algebra"]
    assert found == {f"question {n}": topic for n, topic in enumerate(wanted)}


def test_a_topic_that_is_no_name_is_a_bad_row(store, made):
    def write(path):
        bad = [["a"], "x" * 2000]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows([*TOPICS, *bad, "b"])))

    manifest = made("b.jsonl", write, columns={"topic": "topic"}, max_rejected_share=1)
    reasons = {reason: count for reason, count, _ in manifest.info["rejected_reasons"]}
    assert reasons == {
        "wrong type of 'topic'": 1, "too long a name of a topic in 'topic'": 1
    }  # fmt: skip
    with pytest.raises(ValueError, match="no column 'subject'"):
        made("c.jsonl", as_json, columns={"topic": "subject"})
