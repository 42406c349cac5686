"""The paper's theorem, measured on a target.

Do examples with similar trajectories have similar gradients, and is a subset's mean gradient close
to that of the whole corpus? S2L (Yang et al. 2024, arXiv 2403.07384v2, section 4): examples of one
cluster of trajectories have similar gradients, so the error of the gradient of a subset drawn from
all clusters is bounded. Weights |C_k|/|S_k|, where S_k is chosen from cluster C_k, let each cluster
count as it does in the corpus. N examples, K clusters, P weights of the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from s2l_ray.analysis import gradient_parts
from s2l_ray.analysis.gradient_measures import Draw, distances, similarity
from s2l_ray.analysis.gradient_parts import Weighted
from s2l_ray.analysis.gradients import compute_gradients
from s2l_ray.config import WorkersConfig, fingerprint
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import ClustersView, SelectionView

VERSION = 1  # of what a stage of this module holds: part of its fingerprint


class Subset(NamedTuple):
    """A selection, and the clusters that it was drawn from, if any."""

    selection: Manifest
    clusters: Manifest | None = None


def theorem(
    store: Store,
    checkpoint: str,
    tokens: Manifest,
    clusters: Manifest,
    subsets: Mapping[str, Sequence[Subset]],
    *,
    made_of: str,
    workers: WorkersConfig,
    folder: str = "diagnostics/gradients",
    examples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the rows of `similarity` for these clusters, then those of `distances`.

    checkpoint: folder of a target in Hugging Face format, below the run directory. made_of: the
    checksum of its files. tokens: of the whole corpus, for that target. subsets: all draws of each
    selector, by name; equal draws count once. examples: sampled for the pairs.

    The rows are committed below `folder`, under a fingerprint of all arguments, and found there
    again. An interrupted call leaves parts, and the next one makes only what is missing. Parts are
    removed at the end, since each sum is as large as the model.

    Takes one backward pass over the corpus, one over each draw (two if it was drawn from clusters),
    and one per sampled example. The driver holds about 20 bytes per weight of the target.

    A checkpoint has smaller gradients on the examples that it was trained on, so the subset that it
    was trained on is farther from the corpus than others.
    """
    identity = fingerprint(
        "theorem", VERSION, [gradient_parts.WINDOW_ROWS, gradient_parts.SKETCHES],
        checkpoint, made_of, tokens.fingerprint, clusters.fingerprint,
        {name: [_identity(draw) for draw in draws] for name, draws in subsets.items()},
        examples, seed,
    )  # fmt: skip
    stage = f"{folder}/{identity}"
    done = store.manifest(stage)
    if done is None:
        sets = dict(_draws(store, subsets))
        sample, corpus, means = compute_gradients(
            store, checkpoint, tokens, clusters, sets,
            folder=stage, examples=examples, seed=seed, workers=workers,
        )  # fmt: skip
        square = float(np.average(sample.norm.astype(np.float64) ** 2, weights=sample.weight))
        rows = similarity(sample, seed=seed) + distances(corpus, means, mean_square=square)
        done = store.commit(stage, identity, [], {"rows": rows})
    for parts in ("sketches", "sums"):
        store.remove(stage, parts)
    return done.info["rows"]


def _identity(subset: Subset) -> list[str | None]:
    clusters = subset.clusters
    return [subset.selection.fingerprint, None if clusters is None else clusters.fingerprint]


def weighted(store: Store, subset: Subset) -> Weighted:
    """Read the examples of a selection, with weights |C_k|/|S_k|, or 1 if there are no clusters.

    A selection with training weights has these, which are the same but for rounding.
    """
    own = SelectionView(subset.selection).weights is not None
    columns = ["example_id"] + (["weight" if own else "cluster_id"] if subset.clusters else [])
    tables = [
        store.read_part(subset.selection.folder, part, columns) for part in subset.selection.parts
    ]
    table = pa.concat_tables(tables)
    example_id = table["example_id"].to_numpy()
    if subset.clusters is None:
        return Weighted(example_id, np.ones(len(example_id)))
    if own:
        return Weighted(example_id, table["weight"].to_numpy().astype(np.float64))
    cluster_id = table["cluster_id"].to_numpy()
    sizes_K = np.asarray(ClustersView(subset.clusters).sizes, np.float64)
    chosen_K = np.bincount(cluster_id, minlength=len(sizes_K))
    return Weighted(example_id, sizes_K[cluster_id] / chosen_K[cluster_id])


def _draws(
    store: Store, subsets: Mapping[str, Sequence[Subset]]
) -> Iterator[tuple[Draw, Weighted]]:
    """Read all draws with weights 1, then those from clusters with weights |C_k|/|S_k|.

    Of equal draws of a subset, only the first counts.
    """
    for by_cluster in (False, True):
        for name, draws in subsets.items():
            found: dict[bytes, Weighted] = {}
            for draw in draws:
                if draw.clusters is not None or not by_cluster:
                    each = weighted(store, draw if by_cluster else draw._replace(clusters=None))
                    found.setdefault(np.sort(each.example_id).tobytes(), each)
            for number, each in enumerate(found.values()):
                yield Draw(name, by_cluster, number), each
