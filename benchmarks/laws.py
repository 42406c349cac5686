"""What S2L and its variants choose from the trajectories of a run, before any target is trained.

    python benchmarks/laws.py RUN_DIR

Each selector's probability to choose an example follows from its clusters and quotas. Each
clustering has `--seeds` seeds; means over seeds are shown. The budget is 11%.

- `highest tenth`: the share of the subset that is among the tenth with the highest mean loss.
- `total variation`: of the tenths of the mean loss, from uniform.
- `effective share`: Kish's effective sample size of the subset, weighted by 1 / probability, over
  its size.
- `inertia`: over that of s2l.
- `Rand`: the adjusted Rand index of the clusters of two seeds; `correlation`: that of the
  probabilities. Means over pairs of seeds.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from sklearn.metrics import adjusted_rand_score

from benchmarks import machine
from benchmarks.kmeans import losses_of
from s2l_ray.analysis.laws import bin_of, law, pair, tally, tenths
from s2l_ray.clustering.kmeans import KMeans
from s2l_ray.selection.kinds import Cluster
from s2l_ray.selection.selectors import selector_named

SELECTORS = ("s2l", "s2l_official_clusters", "loss_kmeans", "s2l@0.25", "s2l@0.5", "s2l@0.75",
             "s2l@1")  # fmt: skip
BUDGET = 0.11


def clusters_of(losses_NT: np.ndarray, selector: Cluster, n_clusters: int, seed: int) -> Any:
    """Return the cluster of each example [N], and the inertia."""
    X = losses_NT
    if selector.groups == "clusters_of_means":
        X = losses_NT.mean(axis=1, keepdims=True, dtype=np.float64)
    kmeans = KMeans(n_clusters, init=selector.init or "k-means++", random_state=seed).fit(X)
    return kmeans.predict(X), kmeans.inertia_


def row_of(losses_NT: np.ndarray, name: str, n_clusters: int, seeds: int) -> dict[str, Any]:
    selector = selector_named(name)
    assert isinstance(selector, Cluster)
    mean_N, chosen = losses_NT.mean(axis=1, dtype=np.float64), round(BUDGET * len(losses_NT))
    bins = {"loss": bin_of(mean_N, tenths(mean_N))}
    labels, inertias, chances = [], [], []
    for seed in range(seeds):
        cluster_N, inertia = clusters_of(losses_NT, selector, n_clusters, seed)
        sizes_K = np.bincount(cluster_N, minlength=n_clusters)
        quotas_K = selector.quotas(sizes_K, [None] * n_clusters, chosen)
        labels.append(cluster_N)
        inertias.append(inertia)
        chances.append((quotas_K / np.maximum(sizes_K, 1))[cluster_N])
    found = tally(np.array(chances), bins)
    laws = [law(found, seed) for seed in range(seeds)]
    pairs = [pair(found, *two) for two in pairwise(range(seeds))]
    return {
        "selector": name,
        "highest tenth": fmean(each.subset["loss"][-1] for each in laws),
        "total variation": fmean(each.total_variation("loss") for each in laws),
        "effective share": fmean(each.effective / each.chosen for each in laws),
        "inertia": fmean(inertias),
        "Rand": fmean(adjusted_rand_score(*two) for two in pairwise(labels)),
        "correlation": fmean(each.correlation or 0.0 for each in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a run with trajectories")
    parser.add_argument("--n-clusters", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: expected 2 or more, for the agreement of two")
    losses_NT = losses_of(arguments.run_dir)
    rows = [row_of(losses_NT, each, arguments.n_clusters, arguments.seeds) for each in SELECTORS]
    for row in rows:  # of other dimensions, and so in other units
        if row["selector"] == "loss_kmeans":
            row["inertia"] = None
    whole = rows[0]["inertia"]
    for row in rows:
        row["inertia"] = row["inertia"] and row["inertia"] / whole
    print(machine.table(rows, list(rows[0])))
    settings = {"rows": len(losses_NT), "checkpoints": losses_NT.shape[1], "budget": BUDGET,
                "n_clusters": arguments.n_clusters, "seeds": arguments.seeds}  # fmt: skip
    machine.write(arguments.json, settings, rows)


if __name__ == "__main__":
    main()
