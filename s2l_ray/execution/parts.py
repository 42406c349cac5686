"""Work on Ray: map over parts, and fold over parts.

map_parts makes one part from another. It can be restarted: it keeps the whole parts that an earlier
run left and makes only the missing ones.
fold_parts yields a small result per part, in part order, for the driver to combine.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import NodeFull
from s2l_ray.execution.nodes import away_from, check_room, disk_errors, resources_of
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.remote import get, in_order, rows_of
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.preflight import check_node

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

Made = tuple[dict[str, Any], Part | NodeFull]  # a unit, and what became of it

# From a unit to the part's rows and its stats (JSON, kept in the manifest).
Work = Callable[[dict[str, Any]], tuple[pa.Table, dict[str, Any]]]

FULL_PAUSE = 5.0  # seconds that a full node holds a part, so that it does not fail all the others


@dataclass(frozen=True)
class StageParts:
    """The parts to make for one stage.

    units: what to make each part from, pickled on its way to a worker. Two keys are read here, the
    others are for the work:

    - "unit": the part's name, which may include a folder ("step-000500/part-00000")
    - "made_of" (optional): a part that an earlier run left is kept only if its stats have the same
      value under "made_of"

    info: of the stage's manifest.
    """

    folder: str
    fingerprint: str
    units: list[dict[str, Any]]
    info: dict[str, Any]


@dataclass(frozen=True)
class Actors:
    """A pool of workers.num_workers to max_workers actors, used instead of tasks.

    setting: the config field of `workers`, for messages.
    """

    workers: WorkersConfig
    max_workers: int | None
    setting: str


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
    is full, its parts go to other nodes; NodeFull if there are none.
    """
    parts: dict[str, list[Part]] = {}
    todo = []
    for stage in stages:
        found = store.found(stage.folder)
        parts[stage.folder] = []
        todo += [
            unit | {"folder": stage.folder, "found": found.get(unit["unit"])}
            for unit in stage.units
        ]
    workers = actors.workers if actors else None
    if actors is not None and todo:
        check_room(actors.setting, actors.workers)
    constructor, full = (store, suffix, make_work, args), dict[str, NodeFull]()
    with Progress(label, total=len(todo), unit="parts") as progress:
        while todo:
            away = away_from(full, workers)
            if actors is None:
                outcomes = _by_tasks(todo, constructor, away, label)
            else:
                outcomes = _by_actors(todo, constructor, away, actors)
            todo = []
            for unit, made in outcomes:
                if isinstance(made, NodeFull):
                    if made.node not in full:
                        logger.info(f"{label}: {made}; its parts go to other nodes")
                    full[made.node] = made
                    todo.append(unit)
                else:
                    parts[unit["folder"]].append(made)
                    progress.advance(1)
    return parts


def fold_parts(
    function: Callable[..., Result],
    parts: Iterable[Any],
    *args: Any,
    label: str = "",
    workers: WorkersConfig | None = None,
) -> Iterator[Result]:
    """Yield `function(part, *args)` for each part in order. Each call is a Ray task.

    Results should be small: counts, a histogram, ids. Combine them as they arrive; the driver holds
    those of a few parts at a time. `args` are sent to each node once.
    label: of the progress line; none without. workers: resources of a task (default: one CPU), and
    how many run at a time.
    """
    todo = list(parts)
    shared = ray.put((function, args))
    resources = resources_of(workers or WorkersConfig())
    submit = _apply.options(name=function.__name__, **resources).remote
    shown = Progress(label, total=len(todo), unit="parts") if label else nullcontext()
    with shown as progress:
        most = workers.num_workers if workers else None
        for task in in_order(lambda part: submit(shared, part), todo, most):
            result = get(task)
            if progress is not None:
                progress.advance(1)
            yield result


@ray.remote
def _apply(shared: tuple[Callable[..., Any], tuple[Any, ...]], part: Any) -> Any:
    function, args = shared
    with disk_errors():
        return function(part, *args)


def _by_tasks(
    units: list[dict[str, Any]],
    constructor: tuple[Any, ...],
    label_selector: dict[str, str],
    label: str,
) -> Iterator[Made]:
    shared = ray.put(constructor)
    submit = _make.options(name=label, label_selector=label_selector).remote
    for task in in_order(lambda unit: submit(shared, unit), units):
        yield get(task)


# Ray Data would cost each worker an import of half a second. As there, any number of nodes may die.
@ray.remote(max_retries=-1, scheduling_strategy="SPREAD")
def _make(constructor: tuple[Any, ...], unit: dict[str, Any]) -> Made:
    return unit, PartMaker(*constructor).make(unit)


def _by_actors(
    units: list[dict[str, Any]],
    constructor: tuple[Any, ...],
    label_selector: dict[str, str],
    actors: Actors,
) -> Iterator[Made]:
    """Use Ray Data, whose pool grows with the cluster."""
    from ray.data import ActorPoolStrategy  # takes a second, which tasks do without

    items = [{"unit": pickle.dumps(unit)} for unit in units]
    workers = actors.workers
    least = min(workers.num_workers, len(units))
    most = min(max(actors.max_workers or 0, workers.num_workers), len(units))
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        PartMaker,
        fn_constructor_args=constructor,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        batch_size=1,
        batch_format="pyarrow",
        label_selector=label_selector,
        **resources_of(workers),
    )
    for row in rows_of(dataset):
        yield pickle.loads(row["made"])


class PartMaker:
    """Makes parts in its own process: a Ray task or an actor."""

    def __init__(
        self,
        store: Store,
        suffix: str,
        make_work: Callable[..., Work],
        args: tuple[Any, ...],
    ) -> None:
        self.store, self.suffix = store, suffix
        self.make_work = partial(make_work, *args)
        self.work: Work | None = None  # made when the first part needs it

    def __call__(self, batch: pa.Table) -> pa.Table:
        units = [pickle.loads(data) for data in batch["unit"].to_pylist()]
        return pa.table({"made": [pickle.dumps((unit, self.make(unit))) for unit in units]})

    def make(self, unit: dict[str, Any]) -> Part | NodeFull:
        """Make or find the part of a unit. Return NodeFull if this node's disk is full."""
        check_node(self.store)  # not in __init__, whose errors reach the driver as text only
        try:
            with disk_errors():
                return self._part(unit)
        except NodeFull as error:
            time.sleep(FULL_PAUSE)
            return error

    def _part(self, unit: dict[str, Any]) -> Part:
        folder, found = unit["folder"], unit["found"]
        if found and (part := self.store.found_part(folder, found)):
            made_of = unit.get("made_of")
            if made_of is None or part.stats.get("made_of") == made_of:
                return part
        if self.work is None:
            self.work = self.make_work()
        table, stats = self.work(unit)
        return self.store.write_part(table, folder, unit["unit"], suffix=self.suffix, stats=stats)
