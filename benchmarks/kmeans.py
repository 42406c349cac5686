"""k-means on loss trajectories: ours, scikit-learn and faiss.

    python benchmarks/kmeans.py --rows 1000000            # synthetic, heavy-tailed
    python benchmarks/kmeans.py --trajectories RUN_DIR    # from a run

Every fit runs in its own process, on the same rows (float32), with all CPUs. Each method runs with
`--seeds` seeds; medians are shown.

- `seconds`: the fit. With actors, ours includes starting them and moving the rows, an array as for
  the others, into Ray's object store. (scale.py starts from the parts of a run.)
- `inertia`: computed in the same way for all, in float64 over all rows.
- `iterations`: ours counts iterations over all rows; earlier ones run on samples.
- `peak GB`: the peak memory of all processes of the fit and of Ray's object store, minus the
  memory before the fit; sampled every 0.1 s.

faiss comes with the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import psutil

from benchmarks import machine
from s2l_ray.clustering.kmeans import KMeans
from s2l_ray.clustering.nearest import assign
from s2l_ray.clustering.rows import HELD_BYTES

PEERS: dict[str, dict[str, int]] = {
    "ours": {},  # its defaults: no actors for up to 64 MiB, else one per CPU
    "ours, 2 actors": {"actors": 2},
    "ours, 1 actor": {"actors": 1},
    "scikit-learn KMeans": {},
    "scikit-learn MiniBatchKMeans": {},
    "faiss": {},  # its defaults: 256 rows per cluster, 25 iterations
    "faiss, all rows": {},
}


def losses_like(num_rows: int, num_checkpoints: int, seed: int = 0) -> np.ndarray:
    """Made-up trajectories [N, T]: heavy-tailed levels that fall over the checkpoints."""
    draw = np.random.default_rng(seed)
    found = np.empty((num_rows, num_checkpoints), np.float32)
    for first in range(0, num_rows, 2**20):
        rows = found[first : first + 2**20]
        level = draw.lognormal(0.0, 0.9, (len(rows), 1))
        decay = np.exp(-draw.gamma(2.0, 0.15, (len(rows), 1)) * np.arange(num_checkpoints))
        rows[:] = level * decay + 0.05 * draw.standard_t(3, rows.shape)
    return found


def losses_of(run_dir: str) -> np.ndarray:
    from s2l_ray.scoring.trajectories import losses_array
    from s2l_ray.store import Store

    store = Store(run_dir)
    folder = store.read_json("run.json")["current"]["trajectories"]
    found = store.manifest(folder)
    if found is None:
        raise SystemExit(f"{run_dir}/{folder} is not finished: no manifest.json")
    return np.concatenate([losses_array(store.read_part(folder, part)) for part in found.parts])


def fit(name: str, X: np.ndarray, n_clusters: int, seed: int) -> tuple[np.ndarray, int]:
    """(centers, iterations) of one peer."""
    if name.startswith("ours"):
        actors = PEERS[name].get("actors")
        model = KMeans(n_clusters, random_state=seed, num_actors=actors).fit(X)
        return model.cluster_centers_, model.n_iter_
    if name.startswith("scikit-learn"):
        import sklearn.cluster

        kind = getattr(sklearn.cluster, name.split()[1])
        settings = {"tol": 1e-4} if kind is sklearn.cluster.KMeans else {}
        peer = kind(n_clusters, n_init=1, random_state=seed, **settings).fit(X)
        return peer.cluster_centers_, peer.n_iter_
    import faiss

    points = {"max_points_per_centroid": -(-len(X) // n_clusters)} if "all" in name else {}
    index = faiss.Kmeans(X.shape[1], n_clusters, seed=seed + 1, **points)  # 0 means its own default
    index.train(X)
    return np.array(index.centroids), len(index.iteration_stats or [])


class Memory:
    """The peak memory of this process and its children while the block runs."""

    def __enter__(self) -> Memory:
        self.start = self.peak = self._now()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.thread.join()
        self.peak = max(self.peak, self._now())

    def _watch(self) -> None:
        while not self.over.wait(0.1):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        """Private memory of all processes, plus Ray's object store."""
        private, store = 0, Path("/dev/shm")
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            try:
                used = process.memory_info()
            except psutil.Error:
                continue
            private += used.rss - used.shared
        return private + (psutil.disk_usage(str(store)).used if store.is_dir() else 0)


def one(name: str, path: str, n_clusters: int, seed: int) -> dict[str, float]:
    """In a process of its own: fit one peer."""
    X = np.load(path)
    actors = PEERS[name].get("actors")
    if name.startswith("ours") and (actors or X.nbytes > HELD_BYTES):
        import logging

        import ray

        store = int(X.nbytes * 1.3) + 2**28
        ray.init(
            num_cpus=actors, include_dashboard=False, log_to_driver=False,
            logging_level=logging.ERROR, object_store_memory=store,
        )  # fmt: skip
    if name.startswith("faiss"):
        import faiss  # noqa: F401
    import sklearn.cluster  # noqa: F401

    with Memory() as memory:
        began = time.perf_counter()
        centers, n_iter = fit(name, X, n_clusters, seed)
        seconds = time.perf_counter() - began
    inertia = float(assign(X, np.asarray(centers, np.float64))[1].sum())
    peak = (memory.peak - memory.start) / 1e9
    return {"seconds": seconds, "inertia": inertia, "iterations": n_iter, "peak GB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--checkpoints", type=int, default=12)
    parser.add_argument(
        "--trajectories", metavar="RUN_DIR", help="use those of a run instead of synthetic ones"
    )
    parser.add_argument("--n-clusters", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "FILE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, path, seed = arguments.one
        print(json.dumps(one(name, path, arguments.n_clusters, int(seed))))
        return
    if arguments.trajectories:
        X = losses_of(arguments.trajectories)
    else:
        X = losses_like(arguments.rows, arguments.checkpoints)
    settings = {"rows": len(X), "checkpoints": X.shape[1], "n_clusters": arguments.n_clusters,
                "seeds": arguments.seeds}  # fmt: skip
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/X.npy"
        np.save(path, X)
        print(f"{len(X):,} trajectories of {X.shape[1]} losses, K = {arguments.n_clusters}, "
              f"{arguments.seeds} seeds", flush=True)  # fmt: skip
        for name in arguments.only:
            found = []
            for seed in range(arguments.seeds):
                done = subprocess.run(
                    [sys.executable, __file__, "--n-clusters", str(arguments.n_clusters),
                     "--one", name, path, str(seed)],
                    stdout=subprocess.PIPE, check=True, text=True,
                )  # fmt: skip
                found.append(json.loads(done.stdout.splitlines()[-1]))
            row = {key: statistics.median(one[key] for one in found) for key in found[0]}
            rows.append({"k-means": name} | row | {"of each seed": found})
            for row in rows:
                if peer := next((r for r in rows if r["k-means"] == "scikit-learn KMeans"), None):
                    row["inertia ratio"] = row["inertia"] / peer["inertia"]
                    row["time ratio"] = row["seconds"] / peer["seconds"]
            machine.write(
                arguments.json, settings, rows
            )  # results so far: the whole may take hours
    print(machine.table(rows, ["k-means", "seconds", "time ratio", "inertia", "inertia ratio",
                               "iterations", "peak GB"]))  # fmt: skip


if __name__ == "__main__":
    main()
