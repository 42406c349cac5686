"""What gradients tell: pairs of examples within clusters, mean gradients of subsets.

Pure functions, no I/O. N examples, K clusters, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.analysis.gradients import Mean, Sketches

GROUPINGS = 100  # random ones that clusters are compared with


class Draw(NamedTuple):
    """One of the subsets that a selector drew, with weights |C_k|/|S_k| or without."""

    subset: str
    weighted: bool
    number: int

    def __str__(self) -> str:
        return f"draw {self.number + 1} of {self.subset}"


def similarity(sample: Sketches, *, seed: int = 0) -> list[dict[str, Any]]:
    """Compare pairs of examples within clusters with pairs in random groups of the same sizes.

    Returns a row for each, with

    - cosine and squared_distance of the gradients: means over the pairs of a group, then over
      groups, weighted with the examples that they stand for. The cosine with a gradient of zero,
      which has no direction, is 0.
    - cosine_error and squared_distance_error: for clusters the standard error over clusters, for
      random groups the standard deviation over GROUPINGS groupings of the sample.
    - groups, pairs: their numbers.

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
        raise ValueError(f"clusters: no cluster has two of the {len(norm_N):,} sampled examples")
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


def distances(
    corpus: Mean, means: Iterable[tuple[Draw, Mean]], *, mean_square: float
) -> list[dict[str, Any]]:
    """Compare mean gradients g_S of draws with g_V of the corpus, holding one at a time.

    Returns a row for each subset, and for each that has weights another, with

    - examples, draws: their numbers.
    - distance |g_S - g_V| / |g_V| and cosine: means over the draws. distance_error: the standard
      error of the distance; None for one draw.
    - uniform: the distance to expect of a uniform subset with as many examples,
      sqrt((1/n - 1/N) spread^2) / |g_V| (root of the mean square), where
      spread^2 = (mean_square - |g_V|^2) N / (N - 1).

    mean_square: the mean squared norm of single examples' gradients.
    ValueError if g_V is zero.
    """
    length, N = float(np.linalg.norm(corpus.gradient)), corpus.examples
    if not length:
        raise ValueError(f"the mean gradient of the corpus ({N:,} examples) is zero")
    variance = max(0.0, mean_square - length**2) * N / max(1, N - 1)
    found: dict[tuple[str, bool], list[tuple[int, float, float]]] = {}
    for draw, mean in means:
        apart = float(np.linalg.norm(mean.gradient - corpus.gradient)) / length
        own = float(np.linalg.norm(mean.gradient))
        cosine = float(mean.gradient @ corpus.gradient) / (own * length) if own else 0.0
        key = draw.subset, draw.weighted
        found.setdefault(key, []).append((mean.examples, apart, cosine))
    rows = []
    for (name, by_cluster), draws in found.items():
        apart_D = np.array([apart for _, apart, _ in draws])
        error = float(apart_D.std(ddof=1)) / math.sqrt(len(draws)) if len(draws) > 1 else None
        examples = draws[0][0]
        rows.append(
            {
                "measure": "mean gradient",
                "of": name,
                "weighted": by_cluster,
                "examples": examples,
                "draws": len(draws),
                "distance": float(apart_D.mean()),
                "distance_error": error,
                "cosine": float(np.mean([cosine for _, _, cosine in draws])),
                "uniform": math.sqrt((1 / examples - 1 / N) * variance) / length,
            }
        )
    return rows


def _over(products: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def sentences(rows: list[dict[str, Any]]) -> list[str]:
    """Say what the rows of `theorem` mean: a sentence for the pairs, and one for each subset."""
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
        draws = "one draw" if row["draws"] == 1 else f"mean of {row['draws']} draws"
        text = (
            f"The mean gradient of {row['of']} ({row['examples']:,} examples, {draws}) differs "
            f"from the corpus's by {_apart(row)} of its length (cosine {row['cosine']:.3f}). A "
            f"uniform subset of this size is expected to differ by {row['uniform']:.1%}."
        )
        if other := by_cluster.get(row["of"]):
            text += f" With weights |C_k|/|S_k| the difference is {_apart(other)}"
            text += f"{_nearer(other, row)}."
        found.append(text)
    return found


def _plus_minus(row: dict[str, Any], name: str) -> str:
    error = row[f"{name}_error"]
    return f"{row[name]:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _apart(row: dict[str, Any]) -> str:
    error = row["distance_error"]
    return f"{row['distance']:.1%}" + ("" if error is None else f" ± {error:.1%}")


def _nearer(weighted: dict[str, Any], plain: dict[str, Any]) -> str:
    """Say whether weights bring the gradient nearer; nothing for one draw, which has no error."""
    errors = weighted["distance_error"], plain["distance_error"]
    if None in errors:
        return ""
    gap = weighted["distance"] - plain["distance"]
    if abs(gap) <= 2 * math.hypot(*errors):
        return ", not distinguishable from that without them"
    return f", {'nearer than' if gap < 0 else 'farther than'} without them"


def _within(
    pairs_NN: np.ndarray, weight_N: np.ndarray, members: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return each group's weighted mean over its pairs, and its share of the total weight."""
    means, shares = [], []
    for rows in members:
        weights = np.outer(weight_N[rows], weight_N[rows])
        np.fill_diagonal(weights, 0.0)
        means.append(float((weights * pairs_NN[np.ix_(rows, rows)]).sum() / weights.sum()))
        shares.append(float(weight_N[rows].sum()))
    return np.array(means), np.array(shares) / sum(shares)
