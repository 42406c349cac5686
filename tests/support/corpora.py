"""Small corpora, made as the corpus stage makes them."""

from collections import Counter

import numpy as np
import pyarrow as pa

from s2l_ray.corpus.identity import content_of, example_id_of
from s2l_ray.corpus.rows import Example
from s2l_ray.store.schemas import EXAMPLES


def example(prompt, response, source="a"):
    """One row of the example schema, its id as the corpus stage gives it."""
    turns = [{"role": "user", "text": prompt}, {"role": "assistant", "text": response}]
    return {"source": source, "turns": turns}


def write_corpus(store, examples, num_parts=3, folder="corpus/test"):
    """A committed corpus stage of these examples (see `example`), without Ray."""
    table = []
    for number, row in enumerate(examples):
        content = content_of(Example(row["turns"], row.get("tools")))
        example_id = example_id_of(row["source"], content)
        table.append({"example_id": example_id, **row, "file": "test.jsonl", "row": number + 1})
    table.sort(key=lambda row: row["example_id"])
    parts = []
    for index in range(num_parts):
        mine = [row for row in table if row["example_id"] * num_parts >> 63 == index]
        if mine:
            parts.append(
                store.write_part(
                    pa.Table.from_pylist(mine, schema=EXAMPLES),
                    folder,
                    f"part-{index:05d}",
                    suffix="parquet",
                )
            )
    by_source = dict(Counter(row["source"] for row in table))
    return store.commit(folder, "test", parts, {"num_parts": num_parts, "by_source": by_source})


def random_examples(count, seed=0, sources=("a", "b", "c")):
    """Examples of varied length over a small alphabet of words, all distinct."""
    random = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(50)]
    found = []
    for number in range(count):
        prompt = " ".join(random.choice(words, random.integers(1, 12)))
        response = " ".join(random.choice(words, random.integers(1, 20)))
        found.append(
            example(f"{number} {prompt}", response, sources[int(random.integers(len(sources)))])
        )
    return found
