"""The content that ids depend on is what json.dumps writes, byte for byte."""

import json
import sys

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.identity import (
    are_used,
    content_of,
    example_id_of,
    hash63,
    is_heldout,
    is_used,
)
from s2l_ray.corpus.parsing import digest_batch
from s2l_ray.corpus.rows import BadRow, Example
from s2l_ray.corpus.sources import fingerprint_of


def dumped(items: object) -> bytes:
    return json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode()


def test_every_character_is_written_as_json_does():
    for first in range(0, sys.maxunicode + 1, 0x800):
        if 0xD800 <= first < 0xE000:
            continue  # surrogates
        text = "".join(map(chr, range(first, first + 0x800)))
        example = Example([{"role": "user", "text": text}, {"role": "assistant", "text": ""}])
        assert content_of(example) == dumped([["user", text], ["assistant", ""]])
        assert example_id_of(text, b"") == hash63(dumped(text))
    for code in (0xD800, 0xDFFF):
        with pytest.raises(BadRow, match="not Unicode text"):
            content_of(Example([{"role": "user", "text": chr(code)}]))


def test_what_turns_have_beyond_their_text():
    turns = [
        {"role": "user", "text": 'say "é"', "name": "Zoë", "reasoning": None},
        {"role": "assistant", "text": "", "train": False, "tool_calls": '[{"a":"\\n"}]'},
        {"role": "tool", "text": "1", "name": "f", "tool_call_id": "", "tool_calls": None},
    ]
    expected = [
        ["user", 'say "é"', {"name": "Zoë"}],
        ["assistant", "", {"tool_calls": '[{"a":"\\n"}]', "train": False}],
        ["tool", "1", {"name": "f", "tool_call_id": ""}],
        {"tools": '["é"]'},
    ]
    assert content_of(Example(turns, '["é"]')) == dumped(expected)
    assert content_of(Example([])) == b"[]"


def test_ids_are_frozen():
    """As version 0.1.0 computed them."""
    content = content_of(Example([{"role": "user", "text": "\u2028\x7f\x00/\\"}]))
    assert content == b'[["user","\xe2\x80\xa8\x7f\\u0000/\\\\"]]'
    assert example_id_of('a "source" é', content) == 7283481185008775206
    assert not is_heldout(content, 0.0, 42)
    assert is_heldout(content, 1.0, 42)


def digest(*rows):
    """The digest of a Ray Dataset with these rows."""
    table = pa.Table.from_pylist(rows)
    settings = {"config": CorpusConfig(path="-"), "names": table.column_names, "row_map": None}
    found = pa.concat_tables(digest_batch(table, **settings)).to_pylist()
    total = {name: sum(row[name] for row in found) for name in found[0]}
    return total | {"ids": total["ids"] % 2**63}


def test_what_reaches_the_model_tells_datasets_apart():
    call = [{"name": "add", "arguments": "{}"}]
    question = {"role": "user", "content": "q"}
    rows = [
        {"messages": [question, {"role": "assistant", "content": "a"} | more]} | tools
        for more in ({}, {"reasoning_content": "why"}, {"tool_calls": call}, {"weight": 0})
        for tools in ({}, {"tools": '[{"name": "add"}]'})
    ]
    rows = [row | {"messages": row["messages"] * 2} for row in rows]
    for row in rows:  # one answer keeps its labels
        row["messages"][3] = {"role": "assistant", "content": "a"}
    config = CorpusConfig(path="-")
    assert len({fingerprint_of(config, digest(row)) for row in rows}) == len(rows)
    assert digest(rows[1])["bytes"] == 4 + len('[{"type":"function","function":{"name":"add"}}]')
    assert digest(rows[2])["bytes"] == 4 + len("why")


def test_the_digest_of_plain_rows_is_their_ids_and_texts():
    rows = [{"prompt": "q", "response": "é"}, {"prompt": "q", "response": ""}]
    example = dumped("default") + dumped([["user", "q"], ["assistant", "é"]])
    ids = hash63(example) + hash63(b'{"prompt": "q", "response": ""}')
    assert digest(*rows) == {"rows": 2, "ids": ids % 2**63, "bytes": 3 + 31}


def test_a_share_of_the_rows_is_drawn_alike_one_by_one_and_together():
    keys = np.array([hash63(b"%d" % n) for n in range(20_000)])
    for share in (0.01, 0.3, 0.99, 1.0):
        used = are_used(keys, share)
        assert used.tolist() == [is_used(key, share) for key in keys.tolist()]
        assert used.mean() == pytest.approx(share, abs=0.015)
    small, large = are_used(keys, 0.1), are_used(keys, 0.3)
    assert not (small & ~large).any()  # nested
    # Every part gets its share.
    assert np.histogram(keys[small], 8)[0].min() > 150


def test_a_share_reaches_rows_of_every_shape_and_those_that_are_rejected():
    plain = [{"instruction": f"a {n}", "output": "b"} for n in range(2000)]
    chats = [
        {"messages": [{"role": "user", "content": f"c {n}"}, {"role": "assistant", "content": "d"}]}
        for n in range(2000)
    ]
    bad = [{"instruction": f"e {n}", "output": ""} for n in range(2000)]

    def rows(share: float) -> list[int]:
        config = CorpusConfig(path="x", share=share)
        return [
            sum(table["rows"][0].as_py() for table in digest_batch(
                pa.Table.from_pylist(found), config=config, names=list(found[0]), row_map=None
            ))
            for found in (plain, chats, bad)
        ]  # fmt: skip

    assert rows(1.0) == [2000, 2000, 2000]
    assert all(150 < count < 250 for count in rows(0.1))


def test_the_share_counts_in_the_fingerprint_only_if_it_is_set(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    path = str(tmp_path / "a.jsonl")
    whole, half = (CorpusConfig(path=path, share=share) for share in (1.0, 0.5))
    assert fingerprint_of(CorpusConfig(path=path)) == fingerprint_of(whole)
    assert fingerprint_of(whole) != fingerprint_of(half)
    assert "share" not in whole.settings()
