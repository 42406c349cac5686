"""Check the GPU nodes of a cluster before the first stage that uses them."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.config import WorkersConfig
from s2l_ray.execution import gpu_check
from s2l_ray.execution.gpu_check import SECONDS, Facts
from s2l_ray.execution.nodes import nodes_for

logger = logging.getLogger(__name__)

START_SECONDS = 15.0  # of a Ray worker


def check_gpus(workers: WorkersConfig, *, gpu: float = 0.0, disk: float = 0.0) -> None:
    """Check every node that can hold such a worker, at the same time, within SECONDS.

    gpu: bytes that a worker surely needs on its GPU. disk: bytes that pass through a node's disk.
    ValueError names each node that cannot work; what may go wrong is logged.
    """
    found = measured(workers)
    if not found:
        logger.info("GPUs: no node with one is there yet, so none is checked")
        return
    faults = [text for node, facts in found for text in gpu_check.faults(node, facts, gpu=gpu)]
    for node, facts in found:
        for text in gpu_check.doubts(node, facts, disk=disk):
            logger.warning(text)
    if faults:
        raise ValueError("\n".join(faults))
    devices = sorted({facts["device"] for _, facts in found if "device" in facts})
    logger.info(f"GPUs: {len(found)} of the nodes checked ({', '.join(devices) or 'no answer'})")


def measured(workers: WorkersConfig) -> list[tuple[str, Facts]]:
    """Measure the nodes that are there. A node whose GPUs are all taken is left out."""
    tasks: dict[Any, str] = {}
    for node in nodes_for(workers):
        ranks = min(2, int(node["Resources"].get("GPU", 0)))
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "num_gpus": max(1, ranks), "scheduling_strategy": here}
        task = _measure.options(**options).remote(ranks)
        tasks[task] = node["NodeManagerHostname"]
    if not tasks:
        return []
    done, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=SECONDS + START_SECONDS)
    for task in late:
        ray.cancel(task, force=True)
        logger.info(f"node {tasks[task]}: its GPUs are busy, so they are not checked")
    return [(tasks[task], ray.get(task)) for task in done]


def gpu_memory_of(nodes: list[dict[str, Any]]) -> dict[str, float]:
    """Return the bytes of the smallest GPU of each node that tells, by the node's id."""
    tasks = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = _gpu_memory.options(num_cpus=0, scheduling_strategy=here).remote()
        tasks[task] = node["NodeID"]
    if not tasks:
        return {}
    done, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=SECONDS)
    found = {tasks[task]: ray.get(task) for task in done}
    return {node: size for node, size in found.items() if size is not None}


@ray.remote(max_retries=0)
def _gpu_memory() -> float | None:
    return gpu_check.total_memory()


@ray.remote(max_retries=0)
def _measure(ranks: int) -> Facts:
    return gpu_check.run("cuda", ranks)
