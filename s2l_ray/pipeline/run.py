"""A run as it goes. Each stage's output is keyed by the fingerprint of its settings and inputs:
what is found finished is used again, and anything else is made beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from s2l_ray.config import RunConfig, fingerprint
from s2l_ray.errors import Damaged
from s2l_ray.execution import connect, events, machine
from s2l_ray.execution.gauges import Gauges
from s2l_ray.execution.job import in_job
from s2l_ray.execution.nodes import warn_of_unused_gpus
from s2l_ray.execution.trackers.tracking import Tracking
from s2l_ray.formatting import plural
from s2l_ray.pipeline.alarms import Alarms
from s2l_ray.pipeline.gpus import check_gpus
from s2l_ray.pipeline.identity import settings_of
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.race import TARGETS
from s2l_ray.pipeline.record import RunRecord
from s2l_ray.pipeline.side_by_side import side_by_side
from s2l_ray.pipeline.spending import Spending
from s2l_ray.pipeline.stage import Job, Stage, walk
from s2l_ray.pipeline.state import RunState
from s2l_ray.store import Manifest, Store, preflight
from s2l_ray.store.lease import Lease
from s2l_ray.store.objects import ABANDONED
from s2l_ray.training.resume import resume_points

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ATTEMPTS = 5  # at going on after a damaged file; each attempt names one


@dataclass
class Run:
    """A run as it goes: its store, settings and plan, the finished stages by name, and their times.

    `with Run.start(config) as run:` owns the run directory until the block ends. The plan is there
    once the corpus is known (subset.prepare).
    """

    config: RunConfig
    store: Store
    lease: Lease
    plan: Plan = None  # type: ignore[assignment]
    done: dict[str, Manifest] = field(default_factory=dict)
    times: list[dict[str, Any]] = field(default_factory=list)
    recorded: bool = True  # in run.json
    command: str = "select"
    listeners: list[events.Listener] = field(default_factory=list, repr=False)
    told: set[str] = field(default_factory=set, repr=False)  # what is logged once
    alarms: Alarms = field(default_factory=Alarms, repr=False)
    # What trainings surely need, for the check of the GPU nodes (pipeline.memory).
    gpu_bytes: float = 0.0
    disk_bytes: float = 0.0
    spending: Spending = field(default_factory=Spending, repr=False)
    record: RunRecord | None = field(default=None, repr=False)  # run.json; views share it
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def start(cls, config: RunConfig, command: str = "select") -> Run:
        """Check the run directory and take its lease. Ray is connected to once something needs it.

        command: what the run is for; it decides what there is to do (agenda.agenda).
        """
        store = Store(config.run_dir, config.storage)
        if in_job() and "://" not in config.run_dir and not config.run_dir.startswith("/"):
            raise ValueError(
                f"run_dir: {config.run_dir!r} is relative, but a Ray job has a working directory "
                f"of its own; expected s3://… or an absolute path that every node mounts"
            )
        preflight.check(store)
        if not store.objects.conditional:
            logger.warning(
                f"{store.uri}: this store has no conditional writes. If two runs start on it "
                f"within seconds, both may go on for a while; results stay whole, but work may be "
                f"done twice"
            )
        lease = Lease(store, seconds=config.storage.lease_seconds, job=connect.job_id())
        listeners: list[events.Listener] = [RunState(lease, command), Gauges(config.name)]
        listeners += [Tracking(kind, store, config.name) for kind in dict.fromkeys(config.trackers)]
        lease.take()
        try:
            if swept := store.objects.sweep(ABANDONED):
                logger.info(
                    f"removed {plural(len(swept), 'temporary file')} of writes that were killed, "
                    f"such as {swept[0]}"
                )
            record = RunRecord(store, command)
        except BaseException:
            lease.release()
            raise
        same = record.before.get("config") == config.model_dump(mode="json")
        run = cls(
            config, store, lease, command=command, listeners=listeners, record=record,
            alarms=Alarms(record.before.get("alarms", ()) if same else ()),
            spending=Spending(config.max_gpu_hours, record.before.get("gpu_hours", 0.0)),
        )  # fmt: skip
        connect.expect(config.storage)
        connect.when_connected(run._connected)
        return run

    def _connected(self) -> None:
        self.lease.record["job"] = connect.job_id()
        asking = {
            "proxy.workers": self.config.proxy.workers,
            "trajectories.workers": self.config.trajectories.workers,
        }
        if self.config.target is not None:
            asking["target.workers"] = self.config.target.workers
        warn_of_unused_gpus(asking)

    def __enter__(self) -> Run:
        for each in self.listeners:
            events.listeners.append(each)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.record is not None and error is not None:
                with suppress(OSError):  # the first error is told
                    self.record.end(finished=False, gpu_hours=self.spending.hours)
            elif self.record is not None and self.done:
                self.record.end(finished=True, **self._state())
        except BaseException as failed:
            error = failed
            raise
        finally:
            events.tell(lambda each: each.ended(error))
            for each in self.listeners:
                events.listeners.remove(each)
            connect.forget()
            self.lease.release()

    def finish(self, work: Callable[[Run], Result]) -> Result:
        """Return `work(self)`. If it meets a damaged file, make the file's stage again first."""
        for attempt in range(ATTEMPTS):
            try:
                return work(self)
            except Damaged as damage:
                if attempt == ATTEMPTS - 1:
                    raise
                self._make_again(damage)
                self.done.clear()  # start over: what is whole is found again
        raise AssertionError

    def view(self, config: RunConfig) -> Run:
        """Return a run with other settings on the same run directory, lease and corpus. What it
        makes is not recorded in run.json."""
        plan = Plan(config, self.plan.corpus)
        return replace(
            self, config=config, plan=plan, done={}, times=[], alarms=Alarms(), recorded=False
        )

    def expect(self) -> list[events.Item]:
        """Tell what the run's command will make, and return it."""
        from s2l_ray.pipeline.agenda import agenda  # it imports modules that import this one

        items = agenda(self.config, self.plan, self.command)
        target = [] if self.config.target is None else settings_of(self.config.target)
        result = fingerprint(self.plan.selection(self.config.selection).identity, *target)
        events.tell(lambda each: each.expected(result, items))
        return items

    def is_to_do(self, stage: Stage, wanted: Stage) -> bool:
        """Return whether another stage needs this one, and it is not finished."""
        needed = any(each.folder == stage.folder for each in walk([wanted]))
        return needed and not self.store.exists(stage.folder, "manifest.json")

    def get(self, stage: Stage) -> Manifest:
        """Return the stage's manifest; make the stage and its inputs as far as they are missing."""
        return self.get_all([stage])[0]

    def get_all(self, stages: Iterable[Stage]) -> list[Manifest]:
        """Return the stages' manifests in order; stages with one maker are made together."""
        stages = list(stages)
        missing = {each.folder: each for each in walk(stages) if self.find(each) is None}
        while missing:
            first = next(iter(missing.values()))
            group = [
                each
                for each in missing.values()
                if (each.maker == first.maker or (each.apart and first.apart))
                and missing.keys().isdisjoint(need.folder for need in (*each.inputs, *each.reads))
            ]
            if first.apart:
                self._make_apart(group)
            else:
                self._make(group)
            for each in group:
                del missing[each.folder]
        return [self._known(stage) for stage in stages]

    def _known(self, stage: Stage) -> Manifest:
        manifest = self.find(stage)
        assert manifest is not None, stage.folder
        return manifest

    def find(self, stage: Stage) -> Manifest | None:
        """Return the manifest if the stage is finished, as met before or in the run directory."""
        if stage.found is not None:
            return stage.found
        known = self.done.get(stage.name)
        if known is not None and known.fingerprint == stage.fingerprint:
            return known
        try:
            manifest = self.store.manifest(stage.folder)
            if manifest is None:
                return None
            if manifest.fingerprint != stage.fingerprint:
                address = self.store.address(stage.folder, "manifest.json")
                raise Damaged(
                    f"{address}: damaged: found fingerprint {manifest.fingerprint}, expected the "
                    f"folder's own: it belongs to another stage",
                    stage.folder,
                )
            if fault := self.store.fault(manifest):
                raise Damaged(fault, stage.folder)
        except Damaged as damage:
            self._make_again(damage)
            return None
        self._finish(stage, manifest, 0.0, reused=True)
        return manifest

    def _make_apart(self, stages: list[Stage]) -> None:
        by_folder = {each.folder: each for each in stages}

        def make(folder: str) -> Manifest:
            self._make([by_folder[folder]])
            return self._known(by_folder[folder])

        connect.connect_as_expected()  # in the main thread, where Ray can set its signal handlers
        side_by_side(make, by_folder, self.config.evaluation.targets_at_once)

    def _make(self, stages: list[Stage]) -> None:
        connect.connect_as_expected()
        self.store.met.update(stage.folder for stage in stages)  # so that `gc` keeps what is begun
        jobs = [Job(stage, stage.folder, stage.fingerprint) for stage in stages]
        begun = [self._is_begun(stage.folder) for stage in stages]
        workers = stages[0].work.workers
        if workers and workers.gpus_per_worker and "gpus" not in self.told:
            self.told.add("gpus")
            check_gpus(workers, gpu=self.gpu_bytes, disk=self.disk_bytes)
        start = time.monotonic()
        targets = stages[0].name.startswith(("targets/", TARGETS))
        at_once = self.config.evaluation.targets_at_once if targets else 1
        with (
            self.spending.of(stages[0].work, at_once),
            events.making([stage.folder for stage in stages]),
        ):
            made = stages[0].maker(self, jobs)
        seconds = (time.monotonic() - start) / len(made)  # an equal share each
        for stage, manifest, resumed in zip(stages, made, begun, strict=True):
            self._finish(stage, manifest, seconds, reused=False, resumed=resumed)

    def _make_again(self, damage: Damaged) -> None:
        """Make unfinished again the stage that a folder belongs to. A folder below a stage's own,
        such as a corpus's held-out share, has a manifest of its own: all of them are set aside."""
        logger.warning(f"{damage}; it is made again")
        folder, found = damage.folder, []
        while folder:
            if self.store.exists(folder, "manifest.json"):
                found.append(folder)
            folder = folder.rpartition("/")[0]
        assert found, damage
        for stage in reversed(found):  # the stage's own first: without it all are made again
            self.store.set_aside(stage)

    def _is_begun(self, folder: str) -> bool:
        return bool(self.store.found(folder) or resume_points(self.store, folder))

    def _finish(
        self,
        stage: Stage,
        manifest: Manifest,
        seconds: float,
        *,
        reused: bool,
        resumed: bool = False,
    ) -> None:
        """reused: it was there. resumed: part of it was; the seconds are those of the rest."""
        with self._lock:  # several threads may train targets
            self.done[stage.name] = manifest
            entry = {"stage": stage.name, "seconds": seconds, "reused": reused, "resumed": resumed}
            for before in [each for each in self.times if each["stage"] == stage.name]:
                self.times.remove(before)  # made again, or met again after a repair
                if not before["reused"]:
                    entry["seconds"] += before["seconds"]
                    entry["reused"] = False
            self.times.append(entry)
            if (record := self.record) is not None:
                known = record.rest and record.current.get(stage.name) == manifest.folder
                if not (reused and known):  # else the end of the run writes it
                    self._write()
        events.tell(lambda each: each.stage_ended(manifest, seconds, reused))
        if stage.check is not None:
            stage.check(self, manifest)

    @property
    def hardware(self) -> str:
        """What this command works on, or, if it makes nothing, what the one before worked on."""
        before = {} if self.record is None else self.record.before
        return machine.hardware() or before.get("hardware", "")

    def write_record(self) -> None:
        """Write run.json, where `status` and later commands find what is current."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self.record is None:
            return
        self.store.guard()
        if not self.recorded:
            self.record.update(gpu_hours=self.spending.hours)
            return
        # Stages that this command does not touch stay current.
        self.record.current |= {name: manifest.folder for name, manifest in self.done.items()}
        self.record.write(**self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "versions": machine.versions(),
            "hardware": self.hardware,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "models": {n: m.info["model"] for n, m in self.done.items() if "model" in m.info},
            "times": self.times,
            "alarms": self.alarms.records(),
            "gpu_hours": self.spending.hours,
        }
