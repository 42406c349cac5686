"""Gradients of a corpus on one checkpoint, over Ray: the driver's side.

A gradient is that of an example's mean loss over its label tokens with respect to all weights, in
fp32 and eval mode. Examples without a label token are left out. Results depend neither on the
number of workers nor on interruptions: parts that an interrupted run has made are kept.

N examples, P weights of the model, D width of a sketch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from s2l_ray.analysis.gradient_parts import (
    Sample,
    Weighted,
    Window,
    draw_sample,
    sketch_batches,
    windows,
)
from s2l_ray.config import WorkersConfig
from s2l_ray.execution.parts import Actors, StageParts, make_parts
from s2l_ray.store import Manifest, Part, Store

Key = TypeVar("Key", bound=Hashable)


class Sketches(NamedTuple):
    """A sample of examples, [N] each, with sketches [N, D] of their gradients (backward.sketched).

    weight: how many examples of the corpus each one stands for.
    """

    cluster_id: np.ndarray
    weight: np.ndarray
    norm: np.ndarray
    sketch: np.ndarray


class Mean(NamedTuple):
    """The mean gradient float64 [P] of so many examples, weighted if they have weights."""

    examples: int
    gradient: np.ndarray


def compute_gradients(
    store: Store,
    checkpoint: str,
    tokens: Manifest,
    clusters: Manifest,
    sets: Mapping[Key, Weighted],
    *,
    folder: str,
    examples: int,
    seed: int,
    workers: WorkersConfig,
) -> tuple[Sketches, Mean, Iterator[tuple[Key, Mean]]]:
    """Sketch a sample of about `examples` gradients, and compute mean gradients exactly.

    Returns the sketches, the mean of the corpus, and an iterator over the means of the sets. The
    iterator holds one mean, 8 bytes per weight of the model, and one part, 4 bytes per weight.
    Parts go to `folder`, below `sketches` and `sums`. The folder must stand for all arguments.
    ValueError if a set has no example with a label token, if a gradient is not finite, or if a
    sampled example is not in the tokens.
    """
    sample = draw_sample(store, clusters, examples, seed)
    todo = windows(store, tokens, list(sets.values()))
    covered = {window.set_index for window in todo}
    for index, name in [(None, "the corpus"), *enumerate(map(str, sets))]:
        if index not in covered:
            raise ValueError(f"{name}: none of its examples has a label token in {tokens.folder}")
    units: list[dict[str, Any]] = [
        {"unit": f"sketches/{number:05d}", "batch": batch}
        for number, batch in enumerate(sketch_batches(tokens, sample))
    ]
    units += [
        {"unit": f"sums/{number:05d}", "window": window} for number, window in enumerate(todo)
    ]
    made = make_parts(
        store,
        [StageParts(folder, "", units, {})],
        _make_gradients,
        (store, checkpoint, tokens.folder, list(sets.values()), seed, workers),
        label="gradients",
        actors=Actors(workers, None, setting="trajectories.workers"),
    )
    by_unit = {part.unit: part for part in made[folder]}
    parts = [by_unit[unit["unit"]] for unit in units]
    num_batches = len(parts) - len(todo)
    found = _sketches(store, folder, parts[:num_batches], sample)
    means = _means(store, folder, parts[num_batches:], todo)
    return found, next(means), zip(sets, means, strict=True)


def _sketches(store: Store, folder: str, parts: list[Part], sample: Sample) -> Sketches:
    table = pa.concat_tables([store.read_part(folder, part) for part in parts])
    rows = table["row"].to_numpy()
    sketch = table["sketch"].combine_chunks()
    sketch_ND = sketch.values.to_numpy().reshape(len(rows), -1)
    return Sketches(
        sample.cluster_id[rows], sample.weight[rows], table["norm"].to_numpy(), sketch_ND
    )


def _means(store: Store, folder: str, parts: list[Part], todo: list[Window]) -> Iterator[Mean]:
    """Add the windows of the corpus, then those of each set, in their order and in float64."""
    pairs = zip(parts, todo, strict=True)
    for _, mine in groupby(pairs, lambda pair: pair[1].set_index):
        sum_P, weight, count = np.zeros(0), 0.0, 0
        for part, _ in mine:
            window_P = store.read_part(folder, part)["gradient"].to_numpy()
            sum_P = sum_P + window_P if count else window_P.astype(np.float64)
            count += part.stats["examples"]
            weight += part.stats["weight"]
        sum_P /= weight
        yield Mean(count, sum_P)


def _make_gradients(*args: Any) -> Any:
    # Only actors import it: the driver starts without torch.
    from s2l_ray.analysis.backward import Gradients

    return Gradients(*args)
