"""Nodes: room for workers, full disks, and what a dead training has reserved."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import GPUFailed, NodeFull
from s2l_ray.execution.connect import own_ray
from s2l_ray.execution.machine import hardware

logger = logging.getLogger(__name__)


@contextmanager
def disk_errors() -> Iterator[None]:
    """In a worker, raise NodeFull, which names the node, if the block fails on a full disk."""
    try:
        yield
    except Exception as error:
        if not _is_disk_full(error):
            raise
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free / 2**20
        reason = os.strerror(errno.ENOSPC)
        told = str(error) if reason in str(error) else f"{reason}: {error}"
        raise NodeFull(
            f"node {socket.gethostname()}: {told} ({free:,.0f} MiB free in {folder})",
            ray.get_runtime_context().get_node_id(),
        ) from None


# What safetensors and tokenizers, numpy, and torch.save say of a write that was cut short.
_FULL_WITHOUT_ERRNO = re.compile(
    rf"os error {errno.ENOSPC}\b|^\d+ requested and \d+ written$"
    r"|inline_container\.cc.*unexpected pos"
)


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return _FULL_WITHOUT_ERRNO.search(str(error)) is not None


@contextmanager
def device_errors() -> Iterator[None]:
    """In a worker, raise GPUFailed, which names the node, if the block fails on a broken GPU."""
    try:
        yield
    except RuntimeError as error:
        if not _is_device_failure(error):
            raise
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "?")
        first = str(error).partition("\n")[0]
        raise GPUFailed(
            f"node {socket.gethostname()}: GPU {visible}: {first}; see `nvidia-smi -q -d ECC` and "
            "the node's kernel log (Xid)",
            ray.get_runtime_context().get_node_id(),
        ) from None


def _is_device_failure(error: RuntimeError) -> bool:
    """Tell errors after which a process cannot use its GPU any more from others.

    Memory that runs out is not one. By name, because the driver starts without torch.
    """
    names = {each.__name__ for each in type(error).__mro__}
    text = str(error).lower()
    if "OutOfMemoryError" in names or "out of memory" in text or "alloc_failed" in text:
        return False
    signs = ("cuda error", "cublas_status_", "cudnn_status_", "ecc error", "nccl error")
    return "AcceleratorError" in names or any(sign in text for sign in signs)


def away_from(
    avoided: Mapping[str, NodeFull | GPUFailed], workers: WorkersConfig | None
) -> dict[str, str]:
    """Return the label selector that keeps work away from nodes (by id) that failed.

    Raises the last of the errors if no other node has room for the work.
    """
    if not avoided:
        return {}
    if not room_for(workers or WorkersConfig(), excluded=avoided):
        raise list(avoided.values())[-1]
    return {"ray.io/node-id": f"!in({','.join(avoided)})"}


def check_room(
    setting: str, workers: WorkersConfig, together: int = 1, excluded: Container[str] = ()
) -> None:
    """Log what the stage will wait for if the nodes cannot hold `together` workers now.

    ValueError if it would wait forever: on a local Ray that this process started. setting: the
    config field of `workers`, for messages. excluded: ids of nodes that do not count.
    """
    have = room_for(workers, excluded)
    if have >= together:
        return
    gpus = f" and {workers.gpus_per_worker:g} GPUs" if workers.gpus_per_worker else ""
    kind = f" ({workers.accelerator_type})" if workers.accelerator_type else ""
    text = (
        f"{setting}: needs room for {together:,} with {workers.cpus_per_worker:g} CPUs{gpus}{kind} "
        f"each; found room for {have:,} on {hardware()}"
    )
    if own_ray():
        raise ValueError(f"{text}; ask for fewer or smaller workers")
    logger.info(f"{text}; waiting for nodes")


def num_cpus() -> int:
    """Return the number of CPUs of all nodes that are alive."""
    return int(ray.cluster_resources().get("CPU", 1))


def cpu_work(full: Mapping[str, NodeFull | GPUFailed] = MappingProxyType({})) -> dict[str, Any]:
    """Return where work on one CPU goes, as options of a Ray task or actor: not to full nodes, nor
    to nodes with GPUs if the others have half of all CPUs or more.

    So these stay free for work that needs them, and an autoscaler can stop them. If the other nodes
    are gone or have no CPU free when Ray schedules the work, it may go to any.
    """
    away = away_from(full, None)
    with_gpus = _set_aside()
    if not with_gpus - full.keys():
        return {"label_selector": away}
    excluded = ",".join(sorted({*full, *with_gpus}))
    return {
        "label_selector": {"ray.io/node-id": f"!in({excluded})"},
        "fallback_strategy": [{"label_selector": away}],
    }


def cpus_for_actors() -> int:
    """Return how many actors of one CPU `cpu_work` has room for."""
    aside = _set_aside()
    return max(1, sum(cpus for name, cpus, _ in _alive() if name not in aside))


def _set_aside() -> set[str]:
    """Return the ids of nodes with GPUs, if the others have half of all CPUs or more."""
    nodes = _alive()
    with_gpus = {name for name, _, gpus in nodes if gpus}
    there = sum(cpus for name, cpus, _ in nodes if name in with_gpus)
    return with_gpus if 2 * there <= sum(cpus for _, cpus, _ in nodes) else set()


def _alive() -> list[tuple[str, int, bool]]:
    """Return id, number of CPUs, and whether it has GPUs, of each node that is alive."""
    return [
        (node["NodeID"], int(found.get("CPU", 0)), bool(found.get("GPU")))
        for node in ray.nodes()
        if node["Alive"]
        for found in [node["Resources"]]
    ]


def warn_of_unused_gpus(sections: Mapping[str, WorkersConfig]) -> None:
    """Log a warning if the cluster has GPUs that sections (by config field) do not ask for."""
    have = ray.cluster_resources().get("GPU", 0)
    without = [name for name, workers in sections.items() if not workers.gpus_per_worker]
    if have and without:
        logger.warning(
            f"the cluster has GPUs ({have:g}), but {' and '.join(without)} ask for none: to use "
            "them, set gpus_per_worker: 1 there"
        )


def resources_of(workers: WorkersConfig) -> dict[str, Any]:
    """Return what one worker takes, as options of a Ray task or actor."""
    kind = {"accelerator_type": workers.accelerator_type} if workers.accelerator_type else {}
    return {"num_cpus": workers.cpus_per_worker, "num_gpus": workers.gpus_per_worker} | kind


def nodes_for(workers: WorkersConfig, excluded: Container[str] = ()) -> list[dict[str, Any]]:
    """Return Ray's records of the nodes that are alive and could hold a worker if they were
    idle."""
    return [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in excluded and room_on(node, workers)
    ]


def room_on(node: dict[str, Any], workers: WorkersConfig) -> int:
    """Return how many workers a node could hold if it were idle."""
    needed = {"CPU": workers.cpus_per_worker}
    if workers.gpus_per_worker:
        needed["GPU"] = workers.gpus_per_worker
    if workers.accelerator_type:
        needed[f"accelerator_type:{workers.accelerator_type}"] = 0.001  # what Ray asks for
    return min(int(node["Resources"].get(name, 0) / amount) for name, amount in needed.items())


def room_for(workers: WorkersConfig, excluded: Container[str] = ()) -> int:
    """Return how many workers the nodes that are alive could hold if they were idle."""
    return sum(room_on(node, workers) for node in nodes_for(workers, excluded))


def release(before: set[str]) -> None:
    """Remove this job's placement groups that a dead training left: new ones in which nothing runs.

    before: names of the groups that existed before the training started.

    Ray Train 2.60 leaves the removal to an actor, which acts when the controller dies. If that
    actor dies too (Ray may kill several processes when memory runs out), the group would stay until
    the job ends, and the next attempt would wait for its CPUs. A group of another training that is
    just starting may be removed as well; that training then starts again.
    """
    time.sleep(2.0)  # until all nodes have reported what is free
    free, job = ray.available_resources(), ray.get_runtime_context().get_job_id()
    for name, group in placement_group_table().items():
        reserved = sum(bundle.get("CPU", 0) for bundle in group["bundles"].values())
        idle = group["state"] == "CREATED" and free.get(f"CPU_group_{name}", 0) >= reserved
        if idle and name not in before and name.endswith(job):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
