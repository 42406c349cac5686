"""Before any work: can this process do with the run directory what a run does?"""

from __future__ import annotations

import socket
import sys
import uuid
from functools import cache
from multiprocessing import TimeoutError
from multiprocessing.pool import ThreadPool

from s2l_ray.config import StorageConfig
from s2l_ray.errors import StorageError
from s2l_ray.store.objects import LocalObjects
from s2l_ray.store.s3 import S3Objects, client
from s2l_ray.store.store import Store, lease_name

SECONDS = 10.0  # for all of it
REQUEST_SECONDS = 3.0


def check(store: Store) -> None:
    """Write, read back, list and delete an object, and see what `create` promises.

    StorageError, within SECONDS, says what is wrong and what to mend. store.objects.conditional is
    False afterwards where the store does not honour conditional writes.
    """
    with ThreadPool(1) as pool:
        try:
            quick = _quick(store)
            conditional = pool.apply_async(_probe, [store.uri, quick]).get(SECONDS)
        except TimeoutError:
            raise StorageError(
                f"{store.uri}: no answer for {SECONDS:.0f} s (storage.endpoint, the network, or a "
                f"proxy of this machine)"
            ) from None
    store.objects.conditional = conditional


def check_node(store: Store) -> None:
    """Once in each worker process, for the store of a run: ValueError where this node cannot see
    a local run directory, StorageError where it cannot use the object store."""
    if store.epoch is not None:
        _check_node(store.uri, store.config, store.epoch)


@cache
def _check_node(uri: str, config: StorageConfig, epoch: int) -> None:
    store = Store(uri, config, epoch)
    if not store.is_local:
        _probe(uri, store.objects)  # as patiently as all that follows
    elif not store.exists("lease", lease_name(epoch)):
        raise ValueError(
            f"run_dir: {store.uri} on node {socket.gethostname()} is not the folder that the "
            f"driver sees; wanted a drive that every node shares, or s3://…"
        )


def _quick(store: Store) -> LocalObjects | S3Objects:
    """The store's objects, but with little patience."""
    if store.is_local:
        return store.objects
    objects = S3Objects(store.uri, store.config)
    objects.client = client(store.config, attempts=3, timeout=REQUEST_SECONDS)
    objects.patience = 1.0  # for a body cut off, say, which the client does not ask for again
    return objects


def _probe(uri: str, objects: LocalObjects | S3Objects) -> bool:
    """Whether conditional writes are honoured."""
    folder, data = f"probe/{uuid.uuid4().hex}", uuid.uuid4().bytes
    try:
        objects.write(f"{folder}/a", data)
        if objects.read(f"{folder}/a") != data:
            raise StorageError(f"{uri}: an object comes back other than it was written")
        if objects.sizes(folder) != {"a": len(data)}:
            raise StorageError(f"{uri}: an object just written is not in the listing")
        conditional = not objects.create(f"{folder}/a", b"other") and objects.conditional
        if objects.read(f"{folder}/a") != data:  # a store that takes the condition and ignores it
            conditional = False
    finally:
        if isinstance(objects, LocalObjects) or sys.exc_info()[0] is None:
            objects.remove(folder)
    return conditional
