"""A k-means during which nodes come and go, and one during which a node goes with the rows that it
held; prints as JSON how many actors they had, and whether their results are those of one actor."""

import json
import logging
import time

import numpy as np
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from s2l_ray.clustering.kmeans import KMeans


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


def table(losses_NT):
    losses = pa.array(losses_NT.reshape(-1))
    return pa.table({"losses": pa.FixedSizeListArray.from_arrays(losses, 6)})


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def block(losses_NT):
    return table(losses_NT)


# From the first rows on it has far to go: all of these iterations.
SETTINGS = {"n_clusters": 40, "tol": 0.0, "init": rows()[:40], "max_iter": 20}


def start(*nodes):
    health = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": health},
    )
    added = [cluster.add_node(num_cpus=cpus) for cpus in nodes]
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    return cluster, added


def as_alone(disturbed, X):
    alone = KMeans(**SETTINGS, chunk_rows=disturbed.chunk_rows, num_actors=1).fit(X)
    return bool(
        np.array_equal(disturbed.cluster_centers_, alone.cluster_centers_)
        and disturbed.inertia_ == alone.inertia_
    )


def come_and_go():
    cluster, [first] = start(1)
    actors = {}

    def keep(state):
        iteration = state[1]
        if iteration in (1, 5, 9):
            actors[iteration] = alive_actors()
        if iteration == 3:
            cluster.add_node(num_cpus=3)
            until(lambda: ray.cluster_resources()["CPU"] == 4)
        if iteration == 4:
            until(lambda: alive_actors() == 4)
        if iteration == 7:
            cluster.remove_node(first, allow_graceful=False)
            until(lambda: ray.cluster_resources()["CPU"] == 3)

    X = ray.data.from_arrow(table(rows()))  # so small an array would need no actors
    disturbed = KMeans(**SETTINGS, chunk_rows=500).fit(X, keep=keep)
    found = {"same": as_alone(disturbed, rows()), "n_iter": disturbed.n_iter_, "actors": actors}
    ray.shutdown()
    cluster.shutdown()
    return found


def go_with_rows():
    """No node comes in its place, and each CPU that is left has an actor. Blocks of 240 KB: small
    ones would be with the driver."""
    cluster, [first, _] = start(2, 2)
    X = rows(120_000)
    blocks = ray.data.from_arrow_refs([block.remote(part) for part in np.split(X, 12)])
    actors = {}

    def keep(state):
        iteration = state[1]
        if iteration in (1, 7):
            actors[iteration] = alive_actors()
        if iteration == 3:
            cluster.remove_node(first, allow_graceful=False)
            until(lambda: ray.cluster_resources()["CPU"] == 2)

    disturbed = KMeans(**SETTINGS, chunk_rows=10_000).fit(blocks, keep=keep)
    found = {"same": as_alone(disturbed, X), "n_iter": disturbed.n_iter_, "actors": actors}
    ray.shutdown()
    cluster.shutdown()
    return found


if __name__ == "__main__":
    print(json.dumps([come_and_go(), go_with_rows()]))
