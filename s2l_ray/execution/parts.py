"""Work on Ray: map over parts, and fold over parts.

map_parts makes one part from another. It can be restarted: it keeps the whole parts that an earlier
run left and makes only the missing ones.
fold_parts yields a small result per part, in part order, for the driver to combine.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import ray

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import GPUFailed, NodeFull
from s2l_ray.execution.connect import connect
from s2l_ray.execution.lasting import LastingActors, with_found
from s2l_ray.execution.making import Actors, PartMaker, StageParts, Work
from s2l_ray.execution.nodes import check_room, cpu_work, disk_errors, resources_of
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.remote import get, in_order
from s2l_ray.execution.tries import Tries
from s2l_ray.store import Manifest, Part, Store

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MOST_DEATHS = 5  # of processes that make a part, nodes apart
IN_DRIVER = 2**24  # bytes of parts that fold_parts leaves to the driver
FULL_PAUSE = 5.0  # seconds that a full node holds a part, so that it does not fail all the others

Outcome = tuple[dict[str, Any], Part | NodeFull]  # a unit, and what became of it


def units_of(manifest: Manifest, **more: Any) -> list[dict[str, Any]]:
    """Return a unit per part of a stage: its name as "unit", the Part as "part", and `more`."""
    return [{"unit": part.unit, "part": part} | more for part in manifest.parts]


def map_parts(
    store: Store,
    units: list[dict[str, Any]],
    make_work: Callable[..., Work],
    args: tuple[Any, ...] = (),
    *,
    folder: str,
    fingerprint: str,
    info: dict[str, Any] | None = None,
    **how: Any,
) -> Manifest:
    """Make a part from each unit (see StageParts), commit the stage `folder`, return its manifest.

    `make_work(*args)` returns the function that does the work. how: see make_parts. A part without
    rows is listed like any other.
    """
    [manifest] = map_stages(
        store, [StageParts(folder, fingerprint, units, info or {})], make_work, args, **how
    )
    return manifest


def map_stages(
    store: Store,
    stages: list[StageParts],
    make_work: Callable[..., Work],
    args: tuple[Any, ...] = (),
    **how: Any,
) -> list[Manifest]:
    """Like map_parts, for several stages of one kind together. Return their manifests in order."""
    parts = make_parts(store, stages, make_work, args, **how)
    return [
        store.commit(stage.folder, stage.fingerprint, parts[stage.folder], stage.info)
        for stage in stages
    ]


def make_parts(
    store: Store,
    stages: list[StageParts],
    make_work: Callable[..., Work],
    args: tuple[Any, ...] = (),
    *,
    label: str,
    suffix: str = "arrow",
    actors: Actors | None = None,
) -> dict[str, list[Part]]:
    """Like map_stages, but commit nothing. Return the parts of each stage by folder.

    label: of the progress line. suffix: arrow or parquet. actors: each calls `make_work` once, to
    load a model for example. Without `actors` each part is a Ray task of one CPU. If a node's disk
    is full, its parts go to other nodes; NodeFull if there are none. GPUs that fail: see
    LastingActors.
    """
    connect()
    if actors is None:
        return _made_by_tasks(store, stages, (store, suffix, make_work, args), label)
    parts: dict[str, list[Part]] = {stage.folder: [] for stage in stages}
    pool = LastingActors(store, make_work, args, label=label, actors=actors, suffix=suffix)
    if any(stage.units for stage in stages):
        check_room(actors.setting, actors.workers)
    with pool:
        pool.add(stages)
        for folder, part in pool.all_made():
            parts[folder].append(part)
    return parts


def _made_by_tasks(
    store: Store, stages: list[StageParts], constructor: tuple[Any, ...], label: str
) -> dict[str, list[Part]]:
    parts: dict[str, list[Part]] = {stage.folder: [] for stage in stages}
    todo = [unit for stage in stages for unit in with_found(store, stage)]
    full = dict[str, NodeFull]()
    with Progress(label, total=len(todo), unit="parts") as progress:
        while todo:
            outcomes = _by_tasks(todo, constructor, cpu_work(full), label)
            todo = []
            for unit, made in outcomes:
                if isinstance(made, NodeFull):
                    if made.node not in full:
                        logger.info(f"{label}: {made}; its parts go to other nodes")
                    full[made.node] = made
                    todo.append(unit)
                else:
                    parts[unit["folder"]].append(made)
                    progress.advance(1, found=unit["found"] is not None)
    return parts


def fold_parts(
    function: Callable[..., Result],
    parts: Iterable[Any],
    *args: Any,
    label: str = "",
    workers: WorkersConfig | None = None,
) -> Iterator[Result]:
    """Yield `function(part, *args)` for each part in order. Each call is a Ray task; if the parts
    are small together, the driver makes the calls, without Ray.

    Results should be small: counts, a histogram, ids. Combine them as they arrive; the driver holds
    those of a few parts at a time. `args` are sent to each node once.
    label: of the progress line; none without. workers: resources of a task (default: one CPU), and
    how many run at a time.
    """
    todo = list(parts)
    shown = Progress(label, total=len(todo), unit="parts") if label else nullcontext()
    with shown as progress:
        for result in _folded(function, todo, args, workers):
            if progress is not None:
                progress.advance(1)
            yield result


def _folded(
    function: Callable[..., Result],
    todo: list[Any],
    args: tuple[Any, ...],
    workers: WorkersConfig | None,
) -> Iterator[Result]:
    if workers is None and sum(map(_bytes, todo)) <= IN_DRIVER:
        yield from (function(each, *args) for each in todo)
        return
    connect()
    shared = ray.put((function, args))
    resources = resources_of(workers) if workers else cpu_work()
    submit = _apply.options(name=function.__name__, **resources).remote
    most = workers.num_workers if workers else None
    for task in in_order(lambda part: submit(shared, part), todo, most):
        yield get(task)


def _bytes(part: Any) -> float:
    """Return the bytes of the parts in an item of a fold; of anything else they are unknown."""
    inner = part if isinstance(part, tuple) else (part,)
    sizes = [
        each.bytes if isinstance(each, Part) else _bytes(each)
        for each in inner
        if isinstance(each, Part | tuple)
    ]
    return sum(sizes) if sizes else math.inf


@ray.remote
def _apply(shared: tuple[Callable[..., Any], tuple[Any, ...]], part: Any) -> Any:
    function, args = shared
    with disk_errors():
        return function(part, *args)


def _by_tasks(
    units: list[dict[str, Any]], constructor: tuple[Any, ...], where: dict[str, Any], label: str
) -> Iterator[Outcome]:
    shared = ray.put((constructor, label, Tries(MOST_DEATHS)))
    submit = _make.options(name=label, **where).remote
    for task in in_order(lambda unit: submit(shared, unit), units):
        yield get(task)


# Ray Data would cost each worker an import of half a second. As there, any number of nodes may die.
@ray.remote(max_retries=-1, scheduling_strategy="SPREAD")
def _make(shared: tuple[tuple[Any, ...], str, Tries], unit: dict[str, Any]) -> Outcome:
    constructor, label, tries = shared
    work = f"{unit['folder']}/{unit['unit']}"
    with tries.of(work, f"{label}: {work}: the process that makes it"):
        made = PartMaker(*constructor).make(unit)
    if isinstance(made, GPUFailed):
        raise made
    if isinstance(made, NodeFull):
        time.sleep(FULL_PAUSE)
    return unit, made
