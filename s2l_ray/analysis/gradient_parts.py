"""What gradients to compute, cut into parts: sketches of a sample, sums over sets of examples.

gradients.py is the driver's side of computing them, backward.py the workers' side. N examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.execution.parts import fold_parts
from s2l_ray.scoring.trajectories import sampled
from s2l_ray.selection.cut import cut
from s2l_ray.store import Manifest, Part, Store

WINDOW_ROWS = 4096  # examples at most that one part of a sum covers

SKETCHES = 128  # at most in one part


class Weighted(NamedTuple):
    """Examples with weights, [N] each."""

    example_id: np.ndarray  # int64
    weight: np.ndarray  # float64


class Sample(NamedTuple):
    """Examples drawn for sketches, [N] each. weight: how many of its cluster each stands for."""

    unit: np.ndarray  # name of the part
    example_id: np.ndarray
    cluster_id: np.ndarray
    weight: np.ndarray


class SketchBatch(NamedTuple):
    """Examples of one part of tokens, to sketch one by one."""

    part: Part
    rows: np.ndarray  # their rows in the sample
    example_id: np.ndarray


class Slice(NamedTuple):
    """Examples of a set in one part: `rows` of those with a label, from `first` on."""

    part: Part
    first: int
    rows: int


class Window(NamedTuple):
    """Examples whose gradients are summed together. set_index: their set; None: the corpus."""

    set_index: int | None
    slices: list[Slice]


def draw_sample(store: Store, clusters: Manifest, examples: int, seed: int) -> Sample:
    """Draw about `examples` examples from the first parts, a uniform sample of the corpus.

    Each cluster gets its share, and at least two, drawn uniformly inside it.
    ValueError if no cluster has two examples.
    """
    units, ids, groups = [], [], []
    for part in sampled(clusters.parts):
        table = store.read_part(clusters.folder, part, ["example_id", "cluster_id"])
        units.append(np.full(part.rows, part.unit))
        ids.append(table["example_id"].to_numpy())
        groups.append(table["cluster_id"].to_numpy())
    unit, example_id, group = (np.concatenate(each) for each in (units, ids, groups))
    sizes_K, have = np.bincount(group), len(group)
    quotas_K = np.maximum(np.round(examples * sizes_K / have).astype(np.int64), 2)
    quotas_K = np.where(sizes_K > 1, np.minimum(quotas_K, sizes_K), 0)
    if not quotas_K.any():
        raise ValueError(f"{clusters.folder}: no cluster has two examples, so there are no pairs")
    drawn = cut(example_id, group, np.zeros(have), quotas_K, seed)
    rows = np.flatnonzero(np.isin(example_id, drawn.example_id))
    weight_K = sizes_K / np.maximum(1, quotas_K)
    return Sample(unit[rows], example_id[rows], group[rows], weight_K[group[rows]])


def sketch_batches(tokens: Manifest, sample: Sample) -> list[SketchBatch]:
    """Cut a sample into batches of one part each."""
    parts = {part.unit: part for part in tokens.parts}
    return [
        SketchBatch(parts[name], rows, sample.example_id[rows])
        for name in sorted(set(sample.unit.tolist()))
        for mine in [np.flatnonzero(sample.unit == name)]
        for first in range(0, len(mine), SKETCHES)
        for rows in [mine[first : first + SKETCHES]]
    ]


def windows(store: Store, tokens: Manifest, sets: Sequence[Weighted]) -> list[Window]:
    """Cut the corpus, then each set, into windows in the order of the parts.

    A window of the corpus lies in one part, so that there are parts for all workers. A window of a
    set may span parts: a sum is as large as the model, and sets are spread thinly over parts.
    """
    counts = list(fold_parts(_count, tokens.parts, store, tokens.folder, sets))
    found = list[Window]()
    for index in (None, *range(len(sets))):
        column = 0 if index is None else index + 1
        window, room = list[Slice](), WINDOW_ROWS
        for part, by_set in zip(tokens.parts, counts, strict=True):
            first, left = 0, by_set[column]
            while left:
                rows = min(left, room)
                window.append(Slice(part, first, rows))
                first, left, room = first + rows, left - rows, room - rows
                if not room:
                    found.append(Window(index, window))
                    window, room = [], WINDOW_ROWS
            if index is None and window:
                found.append(Window(index, window))
                window, room = [], WINDOW_ROWS
        if window:
            found.append(Window(index, window))
    return found


def members(tokens: pa.Table, chosen: Weighted | None) -> tuple[pa.Table, np.ndarray]:
    """Select the rows with a label token that are in a set (None: all), with their weights."""
    tokens = tokens.filter(pc.greater(tokens["num_label_tokens"], 0))
    if chosen is None:
        return tokens, np.ones(tokens.num_rows)
    at = pc.index_in(tokens["example_id"], value_set=pa.array(chosen.example_id))
    return tokens.filter(at.is_valid()), chosen.weight[at.drop_null().to_numpy()]


def _count(part: Part, store: Store, folder: str, sets: Sequence[Weighted]) -> list[int]:
    """Count the examples of the corpus, and of each set, in a part."""
    tokens = store.read_part(folder, part, ["example_id", "num_label_tokens"])
    return [members(tokens, chosen)[0].num_rows for chosen in (None, *sets)]
