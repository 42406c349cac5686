"""Evaluation sets, and what is in them."""

import json

import pyarrow as pa

from s2l_ray.config import CorpusConfig

CORPUS = CorpusConfig(path="pool.jsonl")  # what the corpus was read with


def lines_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sources_of(store, manifest):
    tables = [store.read_part(manifest.folder, part, ["source"]) for part in manifest.parts]
    return set(pa.concat_tables(tables)["source"].to_pylist())


def turns_of(store, manifest):
    tables = [store.read_part(manifest.folder, part, ["turns"]) for part in manifest.parts]
    rows = pa.concat_tables(tables)["turns"].to_pylist()
    return sorted(tuple(turn["text"] for turn in turns) for turns in rows)
