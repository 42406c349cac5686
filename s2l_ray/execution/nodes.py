"""Nodes that are not there, or cannot work: a disk is full, a dead training holds them."""

from __future__ import annotations

import errno
import logging
import shutil
import socket
import tempfile
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import NodeFull
from s2l_ray.execution.connect import own_ray
from s2l_ray.execution.machine import hardware

logger = logging.getLogger(__name__)


@contextmanager
def own_disk() -> Iterator[None]:
    """In a worker: an error for want of room on a disk becomes NodeFull, which names the node."""
    try:
        yield
    except Exception as error:
        if not _lacks_room(error):
            raise
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free / 2**20
        raise NodeFull(
            f"node {socket.gethostname()}: {error} ({free:,.0f} MiB free in {folder})",
            ray.get_runtime_context().get_node_id(),
        ) from None


def _lacks_room(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return f"os error {errno.ENOSPC}" in str(error)  # safetensors' and tokenizers' own errors


def besides(full: dict[str, NodeFull], workers: WorkersConfig | None) -> dict[str, str]:
    """The label selector that keeps work away from the full nodes; raises the last of the errors
    where no other node could do it."""
    if not full:
        return {}
    if not _room_for(workers or WorkersConfig(), besides=full):
        raise next(reversed(full.values()))
    return {"ray.io/node-id": f"!in({','.join(full)})"}


def check_room(
    what: str, workers: WorkersConfig, together: int = 1, besides: Container[str] = ()
) -> None:
    """Where the nodes, but for those `besides`, cannot hold so many workers, say what is about to
    be waited for; ValueError where it would be for ever: on a Ray that this process started for
    itself. what: the setting, such as proxy.workers."""
    have = _room_for(workers, besides)
    if have >= together:
        return
    gpus = f" and {workers.gpus_per_worker:g} GPUs" if workers.gpus_per_worker else ""
    kind = f" ({workers.accelerator_type})" if workers.accelerator_type else ""
    text = (
        f"{what}: wanted room for {together:,}, each with "
        f"{workers.cpus_per_worker:g} CPUs{gpus}{kind}; found room for {have:,} on {hardware()}"
    )
    if own_ray():
        raise ValueError(f"{text}: ask for less")
    logger.info(f"{text}: waiting for nodes")


def num_cpus() -> int:
    """The CPUs of all nodes that are there now."""
    return int(ray.cluster_resources().get("CPU", 1))


def resources_of(workers: WorkersConfig) -> dict[str, Any]:
    """What one worker takes, as options of a Ray task or actor."""
    kind = {"accelerator_type": workers.accelerator_type} if workers.accelerator_type else {}
    return {"num_cpus": workers.cpus_per_worker, "num_gpus": workers.gpus_per_worker} | kind


def _room_for(workers: WorkersConfig, besides: Container[str] = ()) -> int:
    """How many workers the nodes that are alive could hold, were they idle."""
    wanted = {"CPU": workers.cpus_per_worker}
    if workers.gpus_per_worker:
        wanted["GPU"] = workers.gpus_per_worker
    if workers.accelerator_type:
        wanted[f"accelerator_type:{workers.accelerator_type}"] = 0.001  # as Ray asks for it
    return sum(
        min(int(node["Resources"].get(name, 0) / amount) for name, amount in wanted.items())
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in besides
    )


def release(before: set[str]) -> None:
    """Free what trainings of this job reserved that are dead: placement groups that were not there
    `before`, and in which nothing runs.

    Ray Train 2.60 leaves it to an actor to do so when its controller dies. Where that one dies too,
    as when Ray kills several processes for want of memory, the group would stay to the job's end
    and the next attempt wait for its CPUs. A group of another training that is just starting may
    be hit; that training then starts anew.
    """
    time.sleep(2.0)  # until all nodes have told what is free
    free, job = ray.available_resources(), ray.get_runtime_context().get_job_id()
    for name, group in placement_group_table().items():
        wanted = sum(bundle.get("CPU", 0) for bundle in group["bundles"].values())
        idle = group["state"] == "CREATED" and free.get(f"CPU_group_{name}", 0) >= wanted
        if idle and name not in before and name.endswith(job):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
