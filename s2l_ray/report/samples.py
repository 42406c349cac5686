"""Samples of a run's parts: lengths of examples, and texts of chosen and other examples.

Parts are ranges of ids and ids are hashes, so the first parts are a uniform sample. Everything here
holds a sample and one part of the subset at a time, whatever the size of the corpus.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.pipeline.run import Run
from s2l_ray.report.data import Example, Piece
from s2l_ray.scoring.trajectories import losses_array, sampled
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import ClustersView, TokensView

LENGTH_BINS = 40


def chosen_of(store: Store, selection: Manifest, ids: pa.Array) -> pa.Array:
    """Return whether each of `ids` was chosen. Reads the subset part by part."""
    chosen = np.zeros(len(ids), bool)
    for part in selection.parts:
        found = store.read_part(selection.folder, part, ["example_id"])["example_id"]
        chosen |= pc.is_in(ids, value_set=found.combine_chunks()).to_numpy(zero_copy_only=False)
    return pa.array(chosen)


def lengths(run: Run, selection: Manifest) -> tuple[list[float], list[int], list[int]]:
    """Return the histogram of tokens per example, from a sample of the parts.

    Edges [LENGTH_BINS + 1], counts of the corpus and of the chosen examples [LENGTH_BINS].
    """
    tokens = run.done["tokens"]
    table = pa.concat_tables(
        run.store.read_part(tokens.folder, part, ["example_id", "input_ids"])
        for part in sampled(tokens.parts)
    ).combine_chunks()
    length = pc.list_value_length(table["input_ids"]).to_numpy()
    taken = chosen_of(run.store, selection, table["example_id"].combine_chunks()).to_numpy(
        zero_copy_only=False
    )
    edges = np.linspace(0, length.max() + 1, LENGTH_BINS + 1)
    of_corpus, of_subset = (np.histogram(each, edges)[0] for each in (length, length[taken]))
    return edges.tolist(), of_corpus.tolist(), of_subset.tolist()


def examples_of_clusters(run: Run, clusters: Manifest, selection: Manifest) -> list[list[Example]]:
    """Return a few examples of each cluster, the chosen ones first, each kind in order of id.

    Half of report.examples_per_cluster are chosen and half are not, as far as the sample has them.
    """
    tokenizer = load_tokenizer(run.store, TokensView(run.done["tokens"]).tokenizer)
    shown: list[list[Example]] = [[] for _ in ClustersView(clusters).sizes]
    for unit, rows in _rows_to_show(run, clusters, selection).items():
        found = _read(run, tokenizer, unit, [example_id for example_id, _, _ in rows])
        for (_, cluster, is_chosen), example in zip(rows, found, strict=True):
            shown[cluster].append(example._replace(chosen=is_chosen))
    return [sorted(examples, key=lambda example: not example.chosen) for examples in shown]


def _rows_to_show(
    run: Run, clusters: Manifest, selection: Manifest
) -> dict[str, list[tuple[int, int, bool]]]:
    """Return unit -> (example_id, cluster, whether it was chosen), in order of id."""
    wanted = run.config.report.examples_per_cluster
    parts = sampled(clusters.parts)
    tables = [run.store.read_part(clusters.folder, part) for part in parts]
    table = pa.concat_tables(tables).combine_chunks()
    ids = table["example_id"].combine_chunks()
    chosen = chosen_of(run.store, selection, ids).to_pylist()
    units = [part.unit for part, rows in zip(parts, tables, strict=True) for _ in range(len(rows))]
    # Cluster -> the first rows that were chosen and the first that were not.
    found: dict[int, dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
    labels = table["cluster_id"].to_pylist()
    for row, (cluster, is_chosen) in enumerate(zip(labels, chosen, strict=True)):
        if len(mine := found[cluster][is_chosen]) < wanted:
            mine.append(row)
    rows = []
    for of in found.values():
        n_chosen = max(-(-wanted // 2), wanted - len(of[False]))
        taken = of[True][:n_chosen]
        rows += taken + of[False][: wanted - len(taken)]
    by_unit: dict[str, list[tuple[int, int, bool]]] = defaultdict(list)
    for row in sorted(rows):
        by_unit[units[row]].append((ids[row].as_py(), labels[row], chosen[row]))
    return by_unit


def _read(run: Run, tokenizer: Any, unit: str, ids: list[int]) -> list[Example]:
    """Return the examples with these ids, all of one part. Whether they were chosen is not set."""

    def rows(stage: str, columns: list[str]) -> pa.Table:
        manifest = run.done[stage]
        [part] = [part for part in manifest.parts if part.unit == unit]
        table = run.store.read_part(manifest.folder, part, ["example_id", *columns])
        return table.take(pc.index_in(pa.array(ids), value_set=table["example_id"]))

    about = rows("corpus", ["source", "file", "row"]).to_pylist()
    tokens = rows("tokens", ["input_ids", "loss_mask"]).to_pylist()
    curves = losses_array(rows(run.plan.seen_by(run.config.selection).name, ["losses"]))
    return [
        Example(
            place=f"{origin['file']}:{origin['row']}",
            source=origin["source"],
            loss_first=float(curve[0]),
            loss_last=float(curve[-1]),
            pieces=pieces_of(tokenizer, encoded["input_ids"], encoded["loss_mask"]),
            chosen=False,
        )
        for origin, encoded, curve in zip(about, tokens, curves, strict=True)
    ]


def pieces_of(tokenizer: Any, input_ids: list[int], loss_mask: list[bool]) -> list[Piece]:
    """Return the text that the tokens stand for, cut where labels begin and end."""
    pairs = zip(input_ids, loss_mask, strict=True)
    return [
        Piece(tokenizer.decode([token for token, _ in tokens]), bool(is_label))
        for is_label, tokens in groupby(pairs, key=lambda pair: pair[1])
    ]
