"""A corpus file as the corpus stage parses it, and what its rows must be."""

import hashlib
import json

import pytest

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.mapping import row_map_of
from s2l_ray.corpus.parsing import parse_rows
from s2l_ray.corpus.reading import read_rows
from s2l_ray.corpus.sources import resolve

FIXED = {"derandomize": True, "deadline": None, "database": None}


def read(path, data=None, **changes):
    """The rows of a file as the corpus stage parses them, in order."""
    if data is not None:
        path.write_bytes(data)
    config = CorpusConfig(path=str(path), **changes)
    how = {"config": config, "seed": 0, "num_parts": 4, "row_map": row_map_of(config)}
    return [
        row
        for file in resolve(config)
        for table in parse_rows(read_rows(file, config), file.name, **how)
        for row in table.to_pylist()
    ]


def refusal(path, data=None, **changes):
    with pytest.raises(ValueError) as caught:
        read(path, data, **changes)
    assert type(caught.value) is ValueError
    assert str(path) in str(caught.value)
    return str(caught.value)


def check_good(row, path, number, prompt, response, source="default"):
    """Against the example schema, the id computed apart."""
    turns = [("user", prompt), ("assistant", response)]
    assert (row["file"], row["row"], row["reason"]) == (str(path), number, None)
    assert (row["source"], [(t["role"], t["text"]) for t in row["turns"]]) == (source, turns)
    pieces = (
        json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in (source, turns)
    )
    digest = hashlib.blake2b("".join(pieces).encode(), digest_size=8).hexdigest()
    assert row["example_id"] == int(digest, 16) >> 1


def check_bad(row, path, number, *reasons):
    assert row["example_id"] is None and row["turns"] is None
    assert (row["file"], row["row"]) == (str(path), number)
    assert row["reason"].startswith(reasons), row["reason"]


def encoded(value):
    return json.dumps(value, ensure_ascii=False).encode()


def pair(row):
    return {"prompt": row[0], "response": row[1]}
