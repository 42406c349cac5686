"""Compare partitions and subsets of a corpus, and measure how pure clusters are in topic.

Partitions are compared part by part, over all examples. The driver holds a table of counts, never
the labels; of subsets it holds the ids. N examples, K clusters, S topics.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.execution.parts import fold_parts
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.views import GroupsView, SelectionView

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


MAX_TOPICS = 10_000

RANDOM_GROUPS = 1000  # at least, for what chance gives

_REACH = 12  # standard deviations; counts beyond them have no weight

# (folder, part) of two stages, for the same examples.
PartPair = tuple[tuple[str, Part], tuple[str, Part]]


class Overlap(NamedTuple):
    """What two subsets share, and what two uniform subsets of their sizes would share."""

    jaccard: float  # shared examples / examples in either
    by_chance: float  # mean of the Jaccard index of uniform subsets
    spread: float  # and its standard deviation


class Purity(NamedTuple):
    """The share of the most common topic in groups of examples, without empty groups."""

    shares_K: np.ndarray
    sizes_K: np.ndarray
    mean: float  # over examples: groups weigh as many as they have
    quantiles: list[float]  # over examples, at QUANTILES


def agreement(store: Store, one: Manifest, other: Manifest) -> float:
    """Compute the adjusted Rand index of two partitions over the examples that both have.

    one, other: stages of clusters or of groups (store.schemas CLUSTERS, GROUPS), of one corpus.
    ValueError if they are of different corpora.
    """
    parts = {part.unit: part for part in other.parts}
    if parts.keys() != {part.unit for part in one.parts}:
        raise ValueError(
            f"{store.address(one.folder)} and {store.address(other.folder)}: found partitions of "
            f"different corpora (their parts have different names), expected the same corpus"
        )
    counts = np.zeros((len(GroupsView(one).sources), len(GroupsView(other).sources)), np.int64)
    pairs = [((one.folder, part), (other.folder, parts[part.unit])) for part in one.parts]
    for part_counts in fold_parts(_joint_counts, pairs, store, counts.shape):
        counts += part_counts
    if not counts.any():
        raise ValueError(
            f"{store.address(one.folder)} and {store.address(other.folder)}: no example in common"
        )
    return adjusted_rand(counts)


def adjusted_rand(counts: np.ndarray) -> float:
    """Compute the adjusted Rand index from the table of counts of two partitions.

    It is 1 for equal partitions and 0 on average for random ones (Hubert and Arabie 1985,
    "Comparing partitions").
    """
    together = _pairs(counts)
    one, other = _pairs(counts.sum(axis=1)), _pairs(counts.sum(axis=0))
    if one == other == together:
        return 1.0
    by_chance = one * other / _pairs(counts.sum())
    return (together - by_chance) / ((one + other) / 2 - by_chance)


def overlap(store: Store, one: Manifest, other: Manifest) -> Overlap:
    """Compare the subsets of two selections."""
    ids, other_ids = _chosen(store, one), _chosen(store, other)
    shared = len(np.intersect1d(ids, other_ids, assume_unique=True))
    candidates = max(SelectionView(each).candidates for each in (one, other))
    mean, spread = jaccard_by_chance(len(ids), len(other_ids), candidates)
    return Overlap(shared / (len(ids) + len(other_ids) - shared), mean, spread)


def share_in(store: Store, subset: Manifest, other: Manifest) -> float:
    """Return the share of a subset's examples that another subset has too."""
    ids = _chosen(store, subset)
    return float(np.isin(ids, _chosen(store, other), assume_unique=True).mean())


def jaccard_by_chance(size: int, other: int, candidates: int) -> tuple[float, float]:
    """Return mean and standard deviation of the Jaccard index of two uniform subsets.

    The number of examples that they share is hypergeometric.
    """
    from scipy.stats import hypergeom  # 0.5 s to import

    shared = hypergeom(candidates, size, other)
    middle = size * other / candidates
    reach = _REACH * math.sqrt(middle) + 1  # the standard deviation is below sqrt(middle)
    least = max(0, size + other - candidates, math.floor(middle - reach))
    most = min(size, other, math.ceil(middle + reach))
    count = np.arange(least, most + 1)
    weight, jaccard = shared.pmf(count), count / (size + other - count)
    mean = float(np.average(jaccard, weights=weight))
    return mean, math.sqrt(np.average((jaccard - mean) ** 2, weights=weight))


def topics_of(store: Store, examples: Manifest, column: str) -> list[str]:
    """Return the values of a stage's column, sorted, without null. ValueError if there are more
    than MAX_TOPICS: the driver has tables of them."""
    found = set[str]()
    for topics in fold_parts(
        _topics_in, examples.parts, store, examples.folder, column, MAX_TOPICS + 1
    ):
        found.update(topics)
        if len(found) > MAX_TOPICS:
            break
    if len(found) > MAX_TOPICS:
        raise ValueError(
            f"corpus.columns.{column}: expected at most {MAX_TOPICS:,} topics, found more, such as "
            f"{min(found)!r}; name a column of fewer"
        )
    return sorted(found)


def topics_by_cluster(
    store: Store, clusters: Manifest, examples: Manifest, column: str, topics: list[str]
) -> np.ndarray:
    """Count examples [K, S] by cluster and topic. Examples without a topic are not counted.

    examples: a stage with the clusters' examples, and their topics in `column`. topics: all S.
    """
    counts_KS = np.zeros((len(GroupsView(clusters).sources), len(topics)), np.int64)
    parts = {part.unit: part for part in examples.parts}
    pairs = [
        ((clusters.folder, part), (examples.folder, parts[part.unit])) for part in clusters.parts
    ]
    for part_counts in fold_parts(_topic_counts, pairs, store, len(counts_KS), topics, column):
        counts_KS += part_counts
    return counts_KS


def purity(counts_KS: np.ndarray) -> Purity:
    """Compute the purity of clusters from their counts of topics, as arXiv 2403.07384 plots it."""
    counts_KS = counts_KS[counts_KS.any(axis=1)]
    sizes_K = counts_KS.sum(axis=1)
    shares_K = counts_KS.max(axis=1) / sizes_K
    mean = float(np.average(shares_K, weights=sizes_K))
    quantiles = np.quantile(shares_K, QUANTILES, weights=sizes_K, method="inverted_cdf")
    return Purity(shares_K, sizes_K, mean, quantiles.tolist())


def purities(tables: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Return the purity of groups by name, of random groups of the sizes that those of
    "trajectories" have, and the share of the most common topic, as JSON.

    tables: counts [K, S] by cluster and topic, "trajectories" among them.
    """
    mine_KS = tables["trajectories"]
    topics_S = mine_KS.sum(axis=0)
    found: dict[str, Any] = {"largest": float(topics_S.max() / topics_S.sum())}
    for name, counts_KS in (tables | {"random": random_groups(mine_KS, seed)}).items():
        pure = purity(counts_KS)._asdict()
        found[name] = pure | {each: pure[each].tolist() for each in ("shares_K", "sizes_K")}
    return found


def random_groups(counts_KS: np.ndarray, seed: int) -> np.ndarray:
    """Draw counts of topics [R * K, S] in random groups of the same sizes: R of each size.

    Draws at least RANDOM_GROUPS in all. The counts of a group are multivariate hypergeometric.
    """
    random, topics_S = np.random.default_rng(seed), counts_KS.sum(axis=0)
    repeats = -(-RANDOM_GROUPS // len(counts_KS))
    return np.concatenate(
        [
            random.multivariate_hypergeometric(topics_S, size, repeats)
            for size in counts_KS.sum(axis=1)
        ]
    )


def _pairs(counts: np.ndarray) -> int:
    """Count the pairs inside groups of these sizes, as a Python int: products of it stay exact."""
    return int((counts * (counts - 1) // 2).sum())


def _labels(store: Store, folder: str, part: Part) -> tuple[np.ndarray, np.ndarray]:
    table = store.read_part(folder, part)
    column = "cluster_id" if "cluster_id" in table.column_names else "group"
    return table["example_id"].to_numpy(), table[column].to_numpy()


def _joint_counts(pair: PartPair, store: Store, shape: tuple[int, int]) -> np.ndarray:
    one, other = pair
    (ids, labels), (other_ids, other_labels) = _labels(store, *one), _labels(store, *other)
    _, at, other_at = np.intersect1d(ids, other_ids, assume_unique=True, return_indices=True)
    places = labels[at].astype(np.int64) * shape[1] + other_labels[other_at]
    return np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)


def _topics_in(part: Part, store: Store, folder: str, column: str, most: int) -> list[str]:
    values = store.read_part(folder, part, [column])[column].drop_null().unique()
    return values.slice(0, most).to_pylist()


def _topic_counts(
    pair: PartPair, store: Store, num_clusters: int, topics: list[str], column: str
) -> np.ndarray:
    clusters, examples = pair
    ids, labels = _labels(store, *clusters)
    table = store.read_part(*examples, ["example_id", column])
    at = pc.index_in(pa.array(ids), value_set=table["example_id"])
    if at.null_count:
        raise ValueError(
            f"{store.address(clusters[0], clusters[1].file)}: {at.null_count:,} examples are not "
            f"in {store.address(examples[0], examples[1].file)}"
        )
    values = pa.array(topics, pa.string())
    topic = pc.fill_null(pc.index_in(table[column].take(at), value_set=values), -1).to_numpy()
    places = (labels.astype(np.int64) * len(topics) + topic)[topic >= 0]
    return np.bincount(places, minlength=num_clusters * len(topics)).reshape(num_clusters, -1)


def _part_ids(part: Part, store: Store, folder: str) -> np.ndarray:
    return store.read_part(folder, part, ["example_id"])["example_id"].to_numpy()


def _chosen(store: Store, selection: Manifest) -> np.ndarray:
    """Read the ids of the chosen examples."""
    found = fold_parts(_part_ids, selection.parts, store, selection.folder)
    return np.concatenate([*found])
