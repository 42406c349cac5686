"""Runs the units of a stage with Ray Data: each unit yields one part, the manifest goes last.

A unit is the restart unit of a stage (a part; in scoring a checkpoint and a part). Whole parts
that an earlier run left behind are kept; only what is missing is made.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import NodeFull
from s2l_ray.execution.nodes import besides, check_room, own_disk
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.remote import plain_rows
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.preflight import check_node

logger = logging.getLogger(__name__)

# What a unit's work returns: the part's rows, and its stats (JSON) for the manifest.
Work = Callable[[dict[str, Any]], tuple[pa.Table, dict[str, Any]]]


FULL_PAUSE = 5.0  # seconds that a full node waits with a unit, lest it takes all of them


@dataclass(frozen=True)
class Stage:
    """A stage to make: its folder, its fingerprint, its units, and the info of its manifest."""

    folder: str
    fingerprint: str
    units: list[dict[str, Any]]
    info: dict[str, Any]


def run_units(
    store: Store,
    units: list[dict[str, Any]],
    make_work: Callable[..., Work],
    args: tuple[Any, ...] = (),
    *,
    folder: str,
    fingerprint: str,
    label: str,
    suffix: str = "arrow",
    workers: WorkersConfig | None = None,
    max_workers: int | None = None,
    info: dict[str, Any] | None = None,
) -> Manifest:
    """Run `make_work(*args)(unit)` for each unit and commit the stage `folder`.

    Each unit is a dict with a name under "unit"; the name may hold a folder ("step-000500/part-0").
    One with "made_of" takes no part of an earlier run whose stats have another there.
    Without `workers` the units are Ray tasks of one CPU; with it they go to a pool of actors, each
    of which calls `make_work` once (to load a model, say), from workers.num_workers up to
    max_workers. A part without rows is listed like any other.
    """
    stage = Stage(folder, fingerprint, units, info or {})
    [manifest] = run_stages(
        store,
        [stage],
        make_work,
        args,
        label=label,
        suffix=suffix,
        workers=workers,
        max_workers=max_workers,
    )
    return manifest


def run_stages(
    store: Store,
    stages: list[Stage],
    make_work: Callable[..., Work],
    args: tuple[Any, ...] = (),
    **how: Any,
) -> list[Manifest]:
    """run_units for several stages of one kind at once, in one pool; the manifests in order.

    how: as make_parts has it.
    """
    parts = make_parts(store, stages, make_work, args, **how)
    return [
        store.commit(stage.folder, stage.fingerprint, parts[stage.folder], stage.info)
        for stage in stages
    ]


def make_parts(
    store: Store,
    stages: list[Stage],
    make_work: Callable[..., Work],
    args: tuple[Any, ...] = (),
    *,
    label: str,
    suffix: str = "arrow",
    workers: WorkersConfig | None = None,
    max_workers: int | None = None,
    stop: threading.Event | None = None,
) -> dict[str, list[Part]]:
    """The parts of these stages by folder, made or found; the stages are left unfinished.

    What a node with a full disk could not do goes to the other nodes. Once `stop` is set,
    no more than the next part; what other actors have under way is thrown away.
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
    if workers is not None and todo:
        check_room(f"{label}: trajectories.workers", workers)
    constructor, full = (store, suffix, make_work, args), dict[str, NodeFull]()
    with Progress(label, total=len(todo), unit="parts") as progress:
        while todo:
            dataset = _dataset(todo, constructor, workers, max_workers, besides(full, workers))
            todo = []
            for row in plain_rows(dataset):
                unit = json.loads(row["unit"])
                if row["full"]:
                    error = NodeFull(*json.loads(row["full"]))
                    if error.node not in full:
                        logger.info(f"{label}: {error}; its parts go to other nodes")
                    full[error.node] = error
                    todo.append(unit)
                else:
                    parts[unit["folder"]].append(Part(**json.loads(row["part"])))
                    progress.advance(1)
                if stop is not None and stop.is_set():
                    return parts
    return parts


def _dataset(
    units: list[dict[str, Any]],
    constructor: tuple[Any, ...],
    workers: WorkersConfig | None,
    max_workers: int | None,
    label_selector: dict[str, str],
) -> ray.data.Dataset:
    items = [{"unit": json.dumps(unit)} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    if workers is None:
        return dataset.map_batches(
            _run_once,
            fn_args=constructor,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            label_selector=label_selector,
        )
    least = min(workers.num_workers, len(units))
    most = min(max(max_workers or 0, workers.num_workers), len(units))
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=constructor,
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=workers.cpus_per_worker,
        num_gpus=workers.gpus_per_worker,
        label_selector=label_selector,
        **({"accelerator_type": workers.accelerator_type} if workers.accelerator_type else {}),
    )


class _Worker:
    def __init__(
        self,
        store: Store,
        suffix: str,
        make_work: Callable[..., Work],
        args: tuple[Any, ...],
    ) -> None:
        check_node(store)
        self.store, self.suffix = store, suffix
        self.make_work = partial(make_work, *args)
        self.work: Work | None = None  # not made for units that are found done

    def __call__(self, batch: pa.Table) -> pa.Table:
        parts, full = [], []
        for text in batch["unit"].to_pylist():
            try:
                with own_disk():
                    parts.append(json.dumps(asdict(self._part(json.loads(text)))))
                full.append("")
            except NodeFull as error:
                time.sleep(FULL_PAUSE)
                parts.append("")
                full.append(json.dumps(error.args))
        return pa.table({"unit": batch["unit"], "part": parts, "full": full})

    def _part(self, unit: dict[str, Any]) -> Part:
        folder, found = unit.pop("folder"), unit.pop("found")
        if found and (part := self.store.found_part(folder, found)):
            made_of = unit.get("made_of")
            if made_of is None or part.stats.get("made_of") == made_of:
                return part
        if self.work is None:
            self.work = self.make_work()
        table, stats = self.work(unit)
        return self.store.write_part(table, folder, unit["unit"], suffix=self.suffix, stats=stats)


def _run_once(batch: pa.Table, *constructor: Any) -> pa.Table:
    return _Worker(*constructor)(batch)
