"""A selection with the source shares of another, by hand."""

import numpy as np
import pyarrow as pa
from support.corpora import example, write_corpus

from s2l_ray.selection.shares import take_shares
from s2l_ray.store.schemas import SUBSET
from s2l_ray.store.views import SelectionView


def test_the_first_of_each_source_are_taken_in_rank_order(local_ray, store):
    sources = "aabababbcabc"  # by rank, in parts of five, five and two
    rows = [example(f"p{n}", f"r{n}", source) for n, source in enumerate(sources)]
    corpus = write_corpus(store, rows, num_parts=2)
    by_text = {
        row["turns"][-1]["text"]: row
        for part in corpus.parts
        for row in store.read_part(corpus.folder, part).to_pylist()
    }
    ranked = [
        by_text[f"r{n}"] | {"rank": n, "cluster_id": n % 3, "reason": f"place {n + 1}"}
        for n in range(len(sources))
    ]
    parts = [
        store.write_part(
            pa.Table.from_pylist(ranked[first:end], schema=SUBSET),
            "selections/w", f"subset/part-{number:05d}", suffix="parquet",
        )
        for number, (first, end) in enumerate([(0, 5), (5, 10), (10, 12)])
    ]  # fmt: skip
    info = {"selector": "longest", "seed": 7, "candidates": 12, "groups_above_quota": 1.0}
    whole = store.commit("selections/w", "w", parts, info)
    tokens = [
        store.write_part(
            pa.table(
                {
                    "example_id": store.read_part(corpus.folder, part)["example_id"],
                    "input_ids": pa.array([[1, 2, 3]] * part.rows, pa.list_(pa.int32())),
                }
            ),
            "tokens/t", part.unit,
        )
        for part in corpus.parts
    ]  # fmt: skip
    found = take_shares(
        store, whole, {"a": 4, "b": 1, "c": 1}, like="random",
        tokens=store.commit("tokens/t", "t", tokens, {}), folder="selections/s", fingerprint="s",
    )  # fmt: skip
    taken = pa.concat_tables([store.read_part(found.folder, part) for part in found.parts])
    # a: 0 1 3 5; b: 2; c: 8, which is in the second part. Nothing of the third.
    assert taken["reason"].to_pylist() == [f"place {n + 1}" for n in (0, 1, 2, 3, 5, 8)]
    assert np.array_equal(taken["rank"], np.arange(6)) and len(found.parts) == 2
    view = SelectionView(found)
    assert (view.examples, view.tokens, view.selector, view.seed) == (6, 18, "longest", 7)
    assert view.by_source == {"a": 4, "b": 1, "c": 1} and found.info["shares_of"] == "random"
    assert store.read_json(found.folder, "selection.json")["budget"] == 6
