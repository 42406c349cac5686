"""Gradients of a corpus on one checkpoint, over Ray: sketches of single examples' and exact means.

A gradient is that of an example's mean loss over its label tokens with respect to all weights,
fp32, eval mode; examples without a label token are left out. backward.py is the workers' side.
Results depend neither on the number of workers nor on their pace.

N examples, K clusters, P weights of the model, D width of a sketch.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from s2l_ray.config import WorkersConfig
from s2l_ray.execution.parts import fold_parts
from s2l_ray.scoring.trajectories import sampled
from s2l_ray.selection.cut import cut
from s2l_ray.store import Manifest, Part, Store

WINDOW_ROWS = 4096  # examples that a task of mean_gradients takes at most, all of one part
SKETCHES = 128  # that a task of sketch makes at most
Key = TypeVar("Key", bound=Hashable)


class Weighted(NamedTuple):
    """Examples with weights, [N] each."""

    example_id: np.ndarray  # int64
    weight: np.ndarray  # float64


class Window(NamedTuple):
    """Rows of a part."""

    part: Part
    first: int
    rows: int


class Sketches(NamedTuple):
    """Of a sample of examples, [N] each, and sketches [N, D] of their gradients, which keep inner
    products (backward.sketched). weight: of how many examples each is one."""

    cluster_id: np.ndarray
    weight: np.ndarray
    norm: np.ndarray
    sketch: np.ndarray


class Mean(NamedTuple):
    """The mean gradient float64 [P] over so many examples, weighted where they have weights."""

    examples: int
    gradient: np.ndarray


def sketch(
    store: Store,
    checkpoint: str,
    tokens: Manifest,
    clusters: Manifest,
    *,
    examples: int,
    seed: int,
    workers: WorkersConfig,
) -> Sketches:
    """Gradients of a sample: about so many examples, of each cluster in proportion to its size and
    at least two, uniformly inside it, from the first parts (a uniform sample of the corpus).

    ValueError where a gradient is not finite, or a sampled example is not in the tokens.
    """
    unit, example_id, cluster_id, weight = _draw(store, clusters, examples, seed)
    parts = {part.unit: part for part in tokens.parts}
    batches = [
        (parts[name], mine[first : first + SKETCHES])
        for name in sorted(set(unit))
        for mine in [np.flatnonzero(unit == name)]
        for first in range(0, len(mine), SKETCHES)
    ]
    mine = [(part, example_id[rows]) for part, rows in batches]
    args = store, checkpoint, tokens.folder, seed, workers
    label = "gradients of examples"
    results = fold_parts(_sketch, mine, *args, label=label, workers=workers)
    kept, norms, sketches = [], [], []
    for (_, rows), (labelled, norm_N, sketch_ND) in zip(batches, results, strict=True):
        kept.append(rows[labelled])
        norms.append(norm_N)
        sketches.append(sketch_ND)
    rows = np.concatenate(kept)
    norm_N, sketch_ND = np.concatenate(norms), np.concatenate(sketches)
    return Sketches(cluster_id[rows], weight[rows], norm_N, sketch_ND)


def mean_gradients(
    store: Store,
    checkpoint: str,
    tokens: Manifest,
    sets: Mapping[Key, Weighted],
    *,
    workers: WorkersConfig,
) -> tuple[Mean, dict[Key, Mean]]:
    """The mean gradients of the whole corpus and of sets of its examples, exactly: sums over
    windows of parts, added in their order, over the sum of the weights.

    The driver holds a float64 vector of the model's size for each, and a task's results.
    ValueError for a gradient that is not finite, or a set without an example that has a label.
    """
    names: list[Any] = ["the corpus", *sets]
    windows = [
        Window(part, first, min(WINDOW_ROWS, part.rows - first))
        for part in tokens.parts
        for first in range(0, part.rows, WINDOW_ROWS)
    ]
    args = store, checkpoint, tokens.folder, [None, *sets.values()], workers
    counts, weights = [0] * len(names), [0.0] * len(names)
    sums: list[np.ndarray] = [np.zeros(0)] * len(names)
    for found in fold_parts(_sum, windows, *args, label="mean gradients", workers=workers):
        for place, (count, weight, sum_P) in found.items():
            sums[place] = sums[place] + sum_P if counts[place] else sum_P.astype(np.float64)
            counts[place] += count
            weights[place] += weight
    for name, count in zip(names, counts, strict=True):
        if not count:
            raise ValueError(f"{name}: none of its examples has a label token in {tokens.folder}")
    for sum_P, weight in zip(sums, weights, strict=True):
        sum_P /= weight
    means = [Mean(*each) for each in zip(counts, sums, strict=True)]
    return means[0], dict(zip(sets, means[1:], strict=True))


def _draw(
    store: Store, clusters: Manifest, examples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The sample's units, example ids, clusters and weights, [N] each."""
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
    return unit[rows], example_id[rows], group[rows], weight_K[group[rows]]


def _sketch(batch: tuple[Part, np.ndarray], *args: Any) -> Any:
    # Imported by the tasks alone: the driver starts without torch.
    from s2l_ray.analysis.backward import sketch_examples

    return sketch_examples(*batch, *args)


def _sum(window: Window, *args: Any) -> Any:
    from s2l_ray.analysis.backward import sum_window

    return sum_window(window, *args)
