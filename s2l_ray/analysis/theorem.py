"""The paper's theorem, measured on a target: are the gradients of examples whose trajectories look
alike alike too, and is a subset's mean gradient near that of the whole corpus?

S2L (Yang et al. 2024, arXiv 2403.07384v2, section 4): examples of one cluster of trajectories have
gradients that are alike, hence a subset drawn from all clusters has a gradient of bounded error.
Weights |C_k|/|S_k|, S_k chosen of cluster C_k, let each cluster count as it does in the corpus.
N examples, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from s2l_ray.analysis.gradients import Mean, Sketches, Weighted, mean_gradients, sketch
from s2l_ray.config import WorkersConfig
from s2l_ray.store import Manifest, Store

GROUPINGS = 100  # random ones that clusters are held against


class Subset(NamedTuple):
    """A selection, and the clusters that it was drawn from, if there are any."""

    selection: Manifest
    clusters: Manifest | None = None


def theorem(
    store: Store,
    checkpoint: str,
    tokens: Manifest,
    clusters: Manifest,
    subsets: Mapping[str, Sequence[Subset]],
    *,
    workers: WorkersConfig,
    examples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The rows of `similarity` for these clusters, then those of `distances` for these subsets.

    checkpoint: folder of a target in Hugging Face format, below the run directory. tokens: of the
    whole corpus, for that target. subsets: by name, each as often as it was drawn; equal draws (of
    a selector that ranks) count once. examples: sampled for the pairs. Takes a backward pass over
    the corpus, one or two over each subset, one for each sampled example; the driver holds 8 bytes
    a weight of the target for each of the subsets, twice where they come of clusters.
    Mind that a checkpoint has smaller gradients on what it was trained on: the subset that made it
    is farther from the corpus than others for that reason alone.
    """
    sample = sketch(
        store, checkpoint, tokens, clusters, examples=examples, seed=seed, workers=workers
    )
    sets = {
        (name, by_cluster, draw): found
        for by_cluster in (False, True)
        for name, draws in subsets.items()
        for draw, found in enumerate(_weighted_draws(store, draws, by_cluster))
    }
    corpus, found = mean_gradients(store, checkpoint, tokens, sets, workers=workers)
    means: dict[tuple[str, bool], list[Mean]] = {}
    for (name, by_cluster, _), mean in found.items():
        means.setdefault((name, by_cluster), []).append(mean)
    square = float(np.average(sample.norm.astype(np.float64) ** 2, weights=sample.weight))
    return similarity(sample, seed=seed) + distances(corpus, means, mean_square=square)


def similarity(sample: Sketches, *, seed: int = 0) -> list[dict[str, Any]]:
    """Two rows: pairs of examples within clusters, and in random groups of the same sizes.

    Each: cosine and squared_distance of the gradients, means over the pairs of a group and then
    over groups, weighted with the examples that they stand for; cosine_error and
    squared_distance_error, within clusters the standard error over clusters, of random groups the
    standard deviation over 100 groupings of the sample; groups, pairs. The cosine with a gradient
    of zero, which has no direction, counts as 0.
    ValueError if no cluster has two examples.
    """
    norm_N = sample.norm.astype(np.float64)
    products_NN = sample.sketch.astype(np.float64) @ sample.sketch.T.astype(np.float64)
    pairs = {
        "cosine": _over(products_NN, np.outer(norm_N, norm_N)),
        "squared_distance": np.add.outer(norm_N**2, norm_N**2) - 2 * products_NN,
    }
    _, group_N = np.unique(sample.cluster_id, return_inverse=True)
    members = [np.flatnonzero(group_N == k) for k in range(group_N.max(initial=-1) + 1)]
    members = [rows for rows in members if len(rows) > 1]
    if not members:
        raise ValueError(f"clusters: none has two of the {len(norm_N):,} sampled examples")
    random = np.random.default_rng(seed)
    shuffled = [random.permutation(len(norm_N)) for _ in range(GROUPINGS)]
    within: dict[str, Any] = {"measure": "pairs", "of": "clusters"}
    apart: dict[str, Any] = {"measure": "pairs", "of": "random groups"}
    for row in (within, apart):
        row["groups"] = len(members)
        row["pairs"] = sum(math.comb(len(rows), 2) for rows in members)
    for name, pairs_NN in pairs.items():
        mean_K, share_K = _within(pairs_NN, sample.weight, members)
        within[name] = float(share_K @ mean_K)
        spread = math.sqrt(float(share_K**2 @ (mean_K - within[name]) ** 2))
        K = len(members)
        within[f"{name}_error"] = spread * math.sqrt(K / (K - 1)) if K > 1 else None
        drawn = []
        for order in shuffled:
            mean_K, share_K = _within(pairs_NN, sample.weight, [order[rows] for rows in members])
            drawn.append(float(share_K @ mean_K))
        apart[name], apart[f"{name}_error"] = float(np.mean(drawn)), float(np.std(drawn, ddof=1))
    return [within, apart]


def weighted(store: Store, subset: Subset) -> Weighted:
    """The examples of a selection, of weight 1; drawn from clusters, |C_k|/|S_k| each."""
    columns = ["example_id"] + (["cluster_id"] if subset.clusters else [])
    tables = [
        store.read_part(subset.selection.folder, part, columns) for part in subset.selection.parts
    ]
    table = pa.concat_tables(tables)
    example_id = table["example_id"].to_numpy()
    if subset.clusters is None:
        return Weighted(example_id, np.ones(len(example_id)))
    cluster_id = table["cluster_id"].to_numpy()
    sizes_K = np.asarray(subset.clusters.info["sizes"], np.float64)
    chosen_K = np.bincount(cluster_id, minlength=len(sizes_K))
    return Weighted(example_id, sizes_K[cluster_id] / chosen_K[cluster_id])


def _weighted_draws(store: Store, draws: Sequence[Subset], by_cluster: bool) -> list[Weighted]:
    """Of draws that differ; none by cluster of a subset that was not drawn from clusters."""
    found: dict[bytes, Weighted] = {}
    for subset in draws:
        if subset.clusters is not None or not by_cluster:
            each = weighted(store, subset if by_cluster else subset._replace(clusters=None))
            found.setdefault(np.sort(each.example_id).tobytes(), each)
    return list(found.values())


def distances(
    corpus: Mean, means: Mapping[tuple[str, bool], Sequence[Mean]], *, mean_square: float
) -> list[dict[str, Any]]:
    """A row for each name, and whether its examples are weighted, with the mean gradients g_S of
    its draws: examples, draws, distance |g_S - g_V| / |g_V| to the corpus's g_V and cosine, their
    means over the draws, distance_error, the standard error (None of one draw), and uniform: the
    distance to expect of a uniform subset of as many examples, sqrt((1/n - 1/N) spread^2) / |g_V|
    (root of the mean square), spread^2 = (mean_square - |g_V|^2) N / (N - 1).

    mean_square: the mean squared norm of the gradients of single examples.
    ValueError if g_V is zero.
    """
    length, N = float(np.linalg.norm(corpus.gradient)), corpus.examples
    if not length:
        raise ValueError(f"the mean gradient of the corpus ({N:,} examples) is zero")
    variance = max(0.0, mean_square - length**2) * N / max(1, N - 1)
    rows = []
    for (name, by_cluster), draws in means.items():
        vectors = np.stack([mean.gradient for mean in draws])
        apart = np.linalg.norm(vectors - corpus.gradient, axis=1) / length
        cosines = _over(vectors @ corpus.gradient, np.linalg.norm(vectors, axis=1) * length)
        error = float(apart.std(ddof=1)) / math.sqrt(len(draws)) if len(draws) > 1 else None
        examples = draws[0].examples
        rows.append(
            {
                "measure": "mean gradient",
                "of": name,
                "weighted": by_cluster,
                "examples": examples,
                "draws": len(draws),
                "distance": float(apart.mean()),
                "distance_error": error,
                "cosine": float(cosines.mean()),
                "uniform": math.sqrt((1 / examples - 1 / N) * variance) / length,
            }
        )
    return rows


def _over(products: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def in_words(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows of `theorem` say, a sentence for the pairs and one for each subset."""
    pairs = {row["of"]: row for row in rows if row["measure"] == "pairs"}
    within, apart = pairs["clusters"], pairs["random groups"]
    error = math.hypot(within["cosine_error"] or 0.0, apart["cosine_error"])
    gap = within["cosine"] - apart["cosine"]
    reading = "more alike than" if gap > 2 * error else "less alike than"
    if abs(gap) <= 2 * error:
        reading = "not distinguishably more or less alike than"
    ratio = within["squared_distance"] / apart["squared_distance"]
    found = [
        f"Gradients within a cluster are {reading} those in random groups of the same sizes: mean "
        f"cosine {_plus_minus(within, 'cosine')} against {_plus_minus(apart, 'cosine')}; their "
        f"mean squared distance is {ratio:.2f} times as large."
    ]
    means = [row for row in rows if row["measure"] == "mean gradient"]
    by_cluster = {row["of"]: row for row in means if row["weighted"]}
    for row in means:
        if row["weighted"]:
            continue
        drawn = "one subset" if row["draws"] == 1 else f"mean of {row['draws']} drawn"
        text = (
            f"The mean gradient of {row['of']} ({row['examples']:,} examples, {drawn}) is "
            f"{_apart(row)} of the corpus's length away from it (cosine {row['cosine']:.3f}); a "
            f"uniform subset of this size is expected at {row['uniform']:.1%}"
        )
        if other := by_cluster.get(row["of"]):
            text += f", and with weights |C_k|/|S_k| it is at {_apart(other)}"
        found.append(text + ".")
    return found


def _plus_minus(row: dict[str, Any], name: str) -> str:
    error = row[f"{name}_error"]
    return f"{row[name]:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _apart(row: dict[str, Any]) -> str:
    error = row["distance_error"]
    return f"{row['distance']:.1%}" + ("" if error is None else f" ± {error:.1%}")


def _within(
    pairs_NN: np.ndarray, weight_N: np.ndarray, members: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each group the weighted mean over its pairs, and its share of the weight of all."""
    means, shares = [], []
    for rows in members:
        weights = np.outer(weight_N[rows], weight_N[rows])
        np.fill_diagonal(weights, 0.0)
        means.append(float((weights * pairs_NN[np.ix_(rows, rows)]).sum() / weights.sum()))
        shares.append(float(weight_N[rows].sum()))
    return np.array(means), np.array(shares) / sum(shares)
