"""Near-duplicates: groups of examples whose texts share most of their shingles.

The result depends neither on the number of parts nor on that of workers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from s2l_ray.corpus.minhash import signatures
from s2l_ray.corpus.similar_pairs import connected, similar_pairs
from s2l_ray.execution.nodes import cpu_work, disk_errors
from s2l_ray.execution.parts import map_parts, units_of
from s2l_ray.execution.remote import get
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, HASHES, NEAR_DUPLICATES, SIGNATURES, completed
from s2l_ray.store.views import CorpusView, ids_of_part

MOST_PAIRS = 50_000_000  # that one task joins: about 7 GB


def sign(
    store: Store, corpus: Manifest, tokens: Manifest, words: int, *, folder: str, fingerprint: str
) -> Manifest:
    """Write the MinHash signature of each example that has a label token.

    words: of a shingle. An example's text is that of all its turns but the system's, which many
    examples share. Parts as in the corpus.
    """
    of_tokens = {part.unit: part for part in tokens.parts}
    units = [unit | {"tokens": of_tokens[unit["unit"]]} for unit in units_of(corpus)]
    return map_parts(
        store,
        units,
        _Sign,
        (store, corpus.folder, tokens.folder, words),
        folder=folder,
        fingerprint=fingerprint,
        label="signatures",
    )


class _Sign:
    def __init__(self, store: Store, corpus: str, tokens: str, words: int) -> None:
        self.store, self.corpus, self.tokens, self.words = store, corpus, tokens, words

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        columns = ["example_id", "num_label_tokens"]
        tokens = self.store.read_part(self.tokens, unit["tokens"], columns)
        labelled = tokens["example_id"].to_numpy()[tokens["num_label_tokens"].to_numpy() > 0]
        examples = completed(self.store.read_part(self.corpus, unit["part"]), EXAMPLES)
        ids = examples["example_id"].to_numpy()
        examples = examples.filter(pa.array(np.isin(ids, labelled)))
        found = [np.empty((0, HASHES), np.uint32)]
        for batch in examples.select(["turns"]).to_batches(max_chunksize=1000):
            found.append(signatures(map(_text, batch["turns"].to_pylist()), self.words))
        flat = pa.array(np.concatenate(found).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, HASHES)
        return pa.table([examples["example_id"], column], schema=SIGNATURES), {}


def _text(turns: list[dict[str, Any]]) -> str:
    fields = ("reasoning", "text", "tool_calls")
    return " ".join(
        turn[name] for turn in turns if turn["role"] != "system" for name in fields if turn[name]
    )


def group(
    store: Store,
    signed: Manifest,
    corpus: CorpusView,
    similarity: float,
    *,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Write the groups of examples that chains of similar pairs connect (NearDuplicatesView).

    signed: of `sign`. similarity: of two examples, at least; the share of equal numbers in their
    signatures estimates it. Rows of schemas.NEAR_DUPLICATES, one per example in a group of two or
    more, in parts by ranges of ids.

    One task joins the pairs: no more than there are similar ones. ValueError for more than
    MOST_PAIRS.
    """
    ranges = [(part, *corpus.ids_of(part.unit)) for part in signed.parts]
    similar = similar_pairs(store, signed, ranges, similarity, folder, fingerprint)
    if similar.rows > MOST_PAIRS:
        raise ValueError(
            f"selection.near_duplicates: {similar.rows:,} pairs of examples are similar, and at "
            f"most {MOST_PAIRS:,} can be joined into groups: raise similarity (now {similarity})"
        )
    join = _join.options(name="near-duplicates", **cpu_work()).remote
    parts, sizes = get(join(store, similar, folder, corpus.num_parts))
    info = {"num_parts": corpus.num_parts, "sizes": sizes}
    return store.commit(folder, fingerprint, parts, info)


@ray.remote
def _join(
    store: Store, similar: Manifest, folder: str, num_parts: int
) -> tuple[list[Part], list[tuple[int, int]]]:
    """Write the groups; return the parts, and how many groups there are of each size."""
    with disk_errors():
        table = pa.concat_tables([store.read_part(similar.folder, p) for p in similar.parts])
        ids, first = connected(table["a"].to_numpy(), table["b"].to_numpy())
        order = np.lexsort((ids, first))
        starts = np.searchsorted(first[order], first[order])
        place = np.empty(len(ids), np.int32)
        place[order] = np.arange(len(ids)) - starts
        rows = pa.table([ids, first, place], schema=NEAR_DUPLICATES)
        firsts = [ids_of_part(number, num_parts)[0] for number in range(num_parts)]
        ends = [*np.searchsorted(ids, firsts), len(ids)]
        parts = [
            store.write_part(rows.slice(ends[i], ends[i + 1] - ends[i]), folder, f"part-{i:05d}")
            for i in range(num_parts)
        ]
        sizes, counts = np.unique(np.unique(first, return_counts=True)[1], return_counts=True)
        return parts, list(zip(sizes.tolist(), counts.tolist(), strict=True))
