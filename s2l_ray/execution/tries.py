"""Work whose process dies in it again and again: a file that crashes its reader, for example.

Ray starts the work again, some of it any number of times. What was begun and not ended is noted in
the cluster's store of keys and values, and the next process looks there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.experimental import internal_kv

NAMESPACE = b"s2l_ray.tries"


class Tries:
    """The tries of one reading, or one stage. most: deaths after which no process tries again."""

    def __init__(self, most: int) -> None:
        self.name, self.most = uuid.uuid4().hex, most

    @contextmanager
    def of(self, work: str, told: str, advice: str = "") -> Iterator[None]:
        """Note that the block works on `work`, in a Ray task.

        ValueError, from `told` (who died) to `advice`, if the processes of `most` tries have died
        in it. Those that died with their node do not count.
        """
        key = f"{self.name} {work}".encode(errors="surrogateescape")
        found = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
        nodes = json.loads(found) if found else []
        if nodes:
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            nodes = [node for node in nodes if node in alive]
        if len(nodes) >= self.most:
            raise ValueError(
                f"{told} died {len(nodes)} times, the last time on node {nodes[-1]}: it crashed or "
                f"was killed, for example for lack of memory{advice and f'. {advice}'}"
            )
        here = ray.get_runtime_context().get_node_id()
        internal_kv._internal_kv_put(key, json.dumps([*nodes, here]), namespace=NAMESPACE)
        try:
            yield
        finally:
            internal_kv._internal_kv_del(key, namespace=NAMESPACE)
