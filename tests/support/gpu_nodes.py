"""A cluster of a node without GPUs and two with (which Ray is told of, and nobody uses). Prints as
JSON where tasks and actors ran, and what a failing GPU led to."""

import json
import logging
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import ray
import torch
from ray.cluster_utils import Cluster

from s2l_ray.config import WorkersConfig
from s2l_ray.execution import parts
from s2l_ray.execution.actors import ActorPool
from s2l_ray.execution.making import Actors, StageParts
from s2l_ray.execution.shuffle import gather, scatter
from s2l_ray.store import Store


def here():
    return ray.get_runtime_context().get_node_id()


def where(number, seconds):
    time.sleep(seconds)
    return here()


def pieces(number, seconds):
    time.sleep(seconds)
    yield [pa.table({"node": [here()]})]
    return here()


def nodes_of(group, tables, seconds):
    time.sleep(seconds)
    return [here()]


@ray.remote(num_cpus=1)
class Told:
    def run(self, chunks, method):
        time.sleep(0.5)
        return [here() for _ in chunks]


class Failing:
    """Work that on one node meets a GPU that fails."""

    def __init__(self, bad, log):
        self.bad, self.log = bad, Path(log)

    def __call__(self, unit):
        if here() == self.bad:
            (self.log / f"{time.monotonic_ns()}").touch()
            raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
        time.sleep(1)
        return pa.table({"a": [1]}), {"node": here()}


def noted():
    return lambda unit: (pa.table({"a": [1]}), {"node": here()})


def mapped():
    with tempfile.TemporaryDirectory() as folder:
        stage = StageParts("made/f", "f", [{"unit": f"part-{n}"} for n in range(4)], {})
        made = parts.make_parts(Store(folder), [stage], noted, label="mapped")
        return [part.stats["node"] for part in made["made/f"]]


def wait_for_cpus(count):
    until = time.monotonic() + 60
    while ray.cluster_resources().get("CPU") != count:
        assert time.monotonic() < until
        time.sleep(0.2)


def free_cpus(count):
    """Wait until they are free: Ray lets work overflow to other nodes while the nodes that it
    prefers have no CPU free."""
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU") != count:
        assert time.monotonic() < until
        time.sleep(0.2)


def failing_gpu(names, bad):
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        log.mkdir()
        units = [{"unit": f"part-{n}"} for n in range(6)]
        made = parts.make_parts(
            Store(Path(folder, "run")),
            [StageParts("made/f", "f", units, {})],
            Failing,
            (bad, str(log)),
            label="x",
            actors=Actors(WorkersConfig(num_workers=2, gpus_per_worker=1), None, "x.workers"),
        )["made/f"]
        return {
            "parts": len({part.unit for part in made}),
            "tries on it": len([*log.iterdir()]),
            "made by": sorted({names[part.stats["node"]] for part in made}),
        }


def main():
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    plain = cluster.add_node(num_cpus=4)
    with_gpu = [cluster.add_node(num_cpus=2, num_gpus=1) for _ in range(2)]
    names = {plain.node_id: "cpu", with_gpu[0].node_id: "gpu", with_gpu[1].node_id: "gpu 2"}
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)

    def told(found):
        return sorted({names[node] for node in found})

    wait_for_cpus(8)
    found = {"folded": told(parts.fold_parts(where, range(4), 0.5))}
    free_cpus(8)
    found["mapped"] = told(mapped())
    free_cpus(8)
    scattered = scatter(pieces, range(4), 1, 0.5)
    groups, readers = [], []
    for tables, reader in scattered:
        groups.append(tables[0])
        readers.append(reader)
    free_cpus(8)
    writers = [node for nodes in gather(nodes_of, groups, 0.5) for node in nodes]
    found["shuffled"] = told([*readers, *writers])
    free_cpus(8)
    with ActorPool(Told, range(20), None) as pool:
        found["actors"] = told(pool.each_chunk("told"))
    found["failing GPU"] = failing_gpu(names, with_gpu[0].node_id)
    cluster.remove_node(plain)
    wait_for_cpus(4)
    nowhere = {"label_selector": {"ray.io/node-id": f"!in({','.join(names)})"}}
    last = ray.remote(where).options(**nowhere, fallback_strategy=[{"label_selector": {}}])
    done, _ = ray.wait([last.remote(0, 0.0)], timeout=60)
    found["after the CPUs are gone"] = len(done)
    found["only GPU nodes"] = told(parts.fold_parts(where, range(8), 1.0))
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
