"""Before any work: check that this process can use the run directory as a run does."""

from __future__ import annotations

import socket
import sys
import uuid
from collections.abc import Callable
from functools import cache
from multiprocessing import TimeoutError
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, TypeVar

from s2l_ray.config import StorageConfig
from s2l_ray.errors import StorageError
from s2l_ray.store.objects import LocalObjects
from s2l_ray.store.owner import lease_name
from s2l_ray.store.store import Store

if TYPE_CHECKING:
    from s2l_ray.store.s3 import S3Objects

Result = TypeVar("Result")

SECONDS = 10.0  # for the whole check
REQUEST_SECONDS = 3.0


def check(store: Store) -> None:
    """Write, read, list and delete an object, and test conditional writes.

    Raises StorageError within SECONDS, which says what is wrong and how to fix it. Sets
    store.objects.conditional to False if the store ignores conditional writes.
    """
    store.objects.conditional = _in_time(store, lambda: _probe(store.uri, _quick(store)))


def names(store: Store) -> list[str]:
    """List what is directly in the run directory, for a process that only reads. Raises
    StorageError like `check`."""
    return _in_time(store, lambda: _quick(store).names(""))


def _in_time(store: Store, work: Callable[[], Result]) -> Result:
    with ThreadPool(1) as pool:
        try:
            return pool.apply_async(work).get(SECONDS)
        except TimeoutError:
            raise StorageError(
                f"{store.uri}: no answer for {SECONDS:.0f} s (storage.endpoint, the network, or a "
                f"proxy of this machine)"
            ) from None


def check_node(store: Store) -> None:
    """Check the store of a run, once per worker process.

    ValueError if this node cannot see a local run directory, StorageError if it cannot use the
    object store.
    """
    if store.epoch is not None:
        _check_node(store.uri, store.config, store.epoch)


@cache
def _check_node(uri: str, config: StorageConfig, epoch: int) -> None:
    store = Store(uri, config, epoch)
    if not store.is_local:
        _probe(uri, store.objects)  # with the patience of all later requests
    elif not store.exists("lease", lease_name(epoch)):
        raise ValueError(
            f"run_dir: {store.uri} on node {socket.gethostname()} is not the folder that the "
            f"driver sees; use a drive that every node shares, or s3://…"
        )


def _quick(store: Store) -> LocalObjects | S3Objects:
    """Return the store's objects with short timeouts."""
    if store.is_local:
        return store.objects
    from s2l_ray.store.s3 import S3Objects  # boto3, which a local run does without
    from s2l_ray.store.s3_client import client

    objects = S3Objects(store.uri, store.config)
    objects.client = client(store.config, attempts=3, timeout=REQUEST_SECONDS)
    objects.patience = 1.0  # also for what the client does not retry, such as a truncated body
    return objects


def _probe(uri: str, objects: LocalObjects | S3Objects) -> bool:
    """Return whether the store honours conditional writes."""
    folder, data = f"probe/{uuid.uuid4().hex}", uuid.uuid4().bytes
    try:
        objects.write(f"{folder}/a", data)
        if objects.read(f"{folder}/a") != data:
            raise StorageError(f"{uri}: an object reads back different from what was written")
        if objects.sizes(folder) != {"a": len(data)}:
            raise StorageError(f"{uri}: a listing lacks an object that was just written")
        conditional = not objects.create(f"{folder}/a", b"other") and objects.conditional
        if objects.read(f"{folder}/a") != data:  # the store accepts the condition and ignores it
            conditional = False
    finally:
        if isinstance(objects, LocalObjects) or sys.exc_info()[0] is None:
            objects.remove(folder)
    return conditional
