"""How large a signal is in each cluster. N examples, G clusters."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.execution.parts import fold_parts
from s2l_ray.selection.ranking import read_beside, units_beside
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import ClustersView


def root_mean_squares(store: Store, clusters: Manifest, signals: Manifest, name: str) -> np.ndarray:
    """Return the root mean square of a signal in each cluster, float64 [G]; 0 for empty ones.

    ValueError for a value that is not finite.
    """
    units = units_beside(clusters, {"signals": signals})
    num_clusters = len(ClustersView(clusters).sources)
    sums_G, counts_G = np.zeros(num_clusters), np.zeros(num_clusters, np.int64)
    for sums, counts in fold_parts(_squares, units, store, clusters.folder, name, num_clusters):
        sums_G += sums
        counts_G += counts
    return np.sqrt(sums_G / np.maximum(counts_G, 1))


def _squares(
    unit: dict[str, Any], store: Store, folder: str, name: str, num_clusters: int
) -> tuple[np.ndarray, np.ndarray]:
    table = store.read_part(folder, unit["part"], ["example_id", "cluster_id"])
    found = read_beside(store, table, unit["beside"]["signals"], (name,))
    value_N = found[name].to_numpy().astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(value_N))
    if len(bad):
        raise ValueError(
            f"{unit['part'].file}: the {name} of example_id {table['example_id'][bad[0]]} is "
            f"{value_N[bad[0]]}, expected a finite number"
        )
    group_N = table["cluster_id"].to_numpy()
    counts = np.bincount(group_N, minlength=num_clusters)
    return np.bincount(group_N, value_N**2, num_clusters), counts
