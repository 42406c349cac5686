"""Parts to make, and the process that makes them: a Ray task or an actor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import GPUFailed, NodeFull
from s2l_ray.execution.nodes import device_errors, disk_errors
from s2l_ray.store import Part, Store
from s2l_ray.store.preflight import check_node

# From a unit to the part's rows and its stats (JSON, kept in the manifest). It may have a method
# `prepare(unit)`, which begins to read what a unit needs, and is called for the next one too.
Work = Callable[[dict[str, Any]], tuple[pa.Table, dict[str, Any]]]


@dataclass(frozen=True)
class StageParts:
    """The parts to make for one stage.

    units: what to make each part from, pickled on its way to a worker. Four keys are read here, the
    others are for the work:

    - "unit": the part's name, which may include a folder ("step-000500/part-00000")
    - "made_of" (optional): a part that an earlier run left is kept only if its stats have the same
      value under "made_of"
    - "wave" (optional): a number. Actors make the units of one wave before those of the next.
    - "near" (optional): units of different waves with the same key go to the same actor, if
      possible. Unique within a wave.

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


class PartMaker:
    """Makes parts in its own process."""

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

    def make(
        self, unit: dict[str, Any], coming: dict[str, Any] | None = None
    ) -> Part | NodeFull | GPUFailed:
        """Make or find the part of a unit.

        coming: the unit that is probably next. Returns the error if this node's disk is full or its
        GPU fails.
        """
        check_node(self.store)  # not in __init__, whose errors reach the driver as text only
        try:
            with disk_errors(), device_errors():
                return self._part(unit, coming)
        except (NodeFull, GPUFailed) as error:
            return error

    def _part(self, unit: dict[str, Any], coming: dict[str, Any] | None) -> Part:
        folder, found = unit["folder"], unit["found"]
        if found and (part := self.store.found_part(folder, found)):
            made_of = unit.get("made_of")
            if made_of is None or part.stats.get("made_of") == made_of:
                return part
        if self.work is None:
            self.work = self.make_work()
        if prepare := getattr(self.work, "prepare", None):
            for each in (unit, coming):
                if each is not None and not each["found"]:
                    prepare(each)
        table, stats = self.work(unit)
        return self.store.write_part(table, folder, unit["unit"], suffix=self.suffix, stats=stats)
