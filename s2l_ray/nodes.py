"""Nodes that are there and cannot work, since their own disk is full: work goes to the others."""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from s2l_ray.config import WorkersConfig


class NodeFull(OSError):
    """No room on the disk of a node; `node` is its id in Ray."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message, node)  # both, so that it can be pickled
        self.node = node

    def __str__(self) -> str:
        return str(self.args[0])


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
    wanted = {"CPU": workers.cpus_per_worker if workers else 1}
    if workers and workers.gpus_per_worker:
        wanted["GPU"] = workers.gpus_per_worker
    others = [
        node
        for node in ray.nodes()
        if node["Alive"]
        and node["NodeID"] not in full
        and all(node["Resources"].get(name, 0) >= amount for name, amount in wanted.items())
    ]
    if not others:
        raise next(reversed(full.values()))
    return {"ray.io/node-id": f"!in({','.join(full)})"}
