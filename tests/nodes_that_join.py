"""A k-means during which nodes come and go; prints as JSON how many actors it had, and whether its
result is that of one actor."""

import json
import logging
import time

import numpy as np
import ray
from ray.cluster_utils import Cluster

from s2l_ray.kmeans import KMeans


def rows(count=6000, checkpoints=6):
    draw = np.random.default_rng(0)
    level = draw.lognormal(0.0, 0.9, (count, 1))
    return (level * np.exp(-draw.gamma(2.0, 0.15, (count, 1)) * np.arange(checkpoints))).astype(
        "f4"
    )


def alive_actors():
    actors = ray._private.state.actors().values()
    return sum(a["ActorClassName"] == "ChunkActor" and a["State"] == "ALIVE" for a in actors)


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.1)


def main():
    health = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": health},
    )
    first = cluster.add_node(num_cpus=1)
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    actors = {}

    def keep(state):
        iteration = state[1]
        if iteration in (1, 5, 9):
            actors[iteration] = alive_actors()
        if iteration == 3:
            cluster.add_node(num_cpus=2)
            until(lambda: ray.cluster_resources()["CPU"] == 3)
        if iteration == 4:
            until(lambda: alive_actors() == 3)
        if iteration == 7:
            cluster.remove_node(first, allow_graceful=False)
            until(lambda: ray.cluster_resources()["CPU"] == 2)

    X = rows()
    # From the first rows on it has far to go: all of these iterations.
    settings = {"n_clusters": 40, "tol": 0.0, "chunk_rows": 500, "init": X[:40], "max_iter": 20}
    disturbed = KMeans(**settings).fit(X, keep=keep)
    alone = KMeans(**settings, num_actors=1).fit(X)
    same = bool(
        np.array_equal(disturbed.cluster_centers_, alone.cluster_centers_)
        and disturbed.inertia_ == alone.inertia_
    )
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps({"same": same, "n_iter": disturbed.n_iter_, "actors": actors}))


if __name__ == "__main__":
    main()
