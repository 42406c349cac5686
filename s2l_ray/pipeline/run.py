"""A run as it goes. Every stage's output is keyed by a fingerprint of its settings and inputs:
found finished, it is used again; anything else is made beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from s2l_ray.config import RunConfig
from s2l_ray.errors import Damaged
from s2l_ray.execution import connect as driver
from s2l_ray.execution import machine
from s2l_ray.store import Manifest, Store, preflight
from s2l_ray.store.lease import Lease
from s2l_ray.training.resume import resume_points

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


ATTEMPTS = 5  # to go on after a damaged file; each names one


@dataclass
class Run:
    """A run as it goes: its store and config, the finished stages by name, and their times.

    `with Run.start(config) as run:` owns the run directory until the block ends.
    """

    config: RunConfig
    store: Store
    lease: Lease
    done: dict[str, Manifest] = field(default_factory=dict)
    times: list[dict[str, Any]] = field(default_factory=list)
    recorded: bool = True  # in run.json
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def start(cls, config: RunConfig) -> Run:
        """Check the run directory, connect to Ray, and take the run directory's lease."""
        store = Store(config.run_dir, config.storage)
        if driver.in_job() and "://" not in config.run_dir and not config.run_dir.startswith("/"):
            raise ValueError(
                f"run_dir: {config.run_dir!r} is relative, and a Ray job's working directory goes "
                f"with the job; wanted s3://… or an absolute path that every node sees"
            )
        preflight.check(store)
        if not store.objects.conditional:
            logger.info(
                f"{store.uri}: this store has no conditional writes: of two runs started on it in "
                f"the same seconds both may go on for a while. Results stay whole; work may be "
                f"done twice"
            )
        driver.connect(config.storage)
        lease = Lease(store, seconds=config.storage.lease_seconds, job=driver.job_id())
        return cls(config, store, lease.take())

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lease.release()

    def finish(self, work: Callable[[Run], Result]) -> Result:
        """`work(self)`; where it meets a damaged file, the file's stage is made again first."""
        for attempt in range(ATTEMPTS):
            try:
                return work(self)
            except Damaged as damage:
                if attempt == ATTEMPTS - 1:
                    raise
                self._make_again(damage.folder, str(damage))
                self.done.clear()  # from the start: what is whole is found again
        raise AssertionError

    def _make_again(self, folder: str, why: str) -> None:
        """Make the stage unfinished again that a folder is of: of those below a stage's own, such
        as a corpus's held-out share, each with a manifest, all."""
        logger.info(f"{why}; it is made again")
        found = []
        while folder:
            if self.store.manifest(folder) is not None:
                found.append(folder)
            folder = folder.rpartition("/")[0]
        assert found, why
        for stage in reversed(found):  # the stage's own first: without it all are made again
            self.store.set_aside(stage)

    def view(self, config: RunConfig) -> Run:
        """The same run directory and lease under other settings, with the corpus and the tokens
        that this run has; what it makes is not told in run.json."""
        done = {name: self.done[name] for name in ("corpus", "tokens")}
        return replace(self, config=config, done=done, times=[], recorded=False)

    def announce(self, marks: dict[str, str]) -> None:
        """Say which of these stages are there and which are to be made, and from where on."""
        there, to_do = [], []
        for name, mark in marks.items():
            folder = f"{name}/{mark}"
            if self.store.exists(folder, "manifest.json"):
                there.append(name)
                continue
            if points := resume_points(self.store, folder):
                to_do.append(f"{name} (from {points[0].split('-lease')[0]} on)")
            elif found := len(self.store.found(folder)):
                to_do.append(f"{name} ({found:,} parts are there)")
            else:
                to_do.append(name)
        if there:
            logger.info(f"reused: {', '.join(there)}")
        logger.info(f"to do: {', '.join(to_do) or 'nothing'}")

    def stage(self, name: str, mark: str, make: Callable[..., Manifest]) -> Manifest:
        """The stage's manifest: as found, or from `make(folder=…, fingerprint=…)`."""
        return self.stages({name: mark}, lambda missing: [make(**missing[name])])[name]

    def stages(
        self,
        marks: dict[str, str],
        make: Callable[[dict[str, dict[str, str]]], list[Manifest]],
    ) -> dict[str, Manifest]:
        """Several stages whose missing ones are made together.

        `make` gets {name: {"folder": …, "fingerprint": …}} of the missing, and returns their
        manifests in that order.
        """
        missing = {}
        for name, mark in marks.items():
            known = self.done.get(name)
            if known is not None and known.fingerprint == mark:  # met before in this run
                continue
            folder = f"{name}/{mark}"
            manifest = self.store.manifest(folder)
            if manifest is not None and manifest.fingerprint != mark:
                raise ValueError(
                    f"{self.store.address(folder, 'manifest.json')}: fingerprint "
                    f"{manifest.fingerprint}, wanted the folder's own; it is of another stage"
                )
            if manifest is not None and (fault := self.store.fault(manifest)):
                self._make_again(folder, fault)
                manifest = None
            if manifest is None:
                missing[name] = {"folder": folder, "fingerprint": mark}
            else:
                self._finish(name, manifest, 0.0, reused=True)
        if missing:
            begun = {name: self._is_begun(each["folder"]) for name, each in missing.items()}
            began = time.monotonic()
            made = make(missing)
            seconds = (time.monotonic() - began) / len(made)  # each had its share
            for name, manifest in zip(missing, made, strict=True):
                self._finish(name, manifest, seconds, reused=False, resumed=begun[name])
        return {name: self.done[name] for name in marks}

    def _is_begun(self, folder: str) -> bool:
        return bool(self.store.found(folder) or resume_points(self.store, folder))

    def _finish(
        self, name: str, manifest: Manifest, seconds: float, *, reused: bool, resumed: bool = False
    ) -> None:
        """reused: it was there; resumed: a part of it was, and the seconds are of the rest."""
        with self._lock:  # targets may be trained by several threads
            self.done[name] = manifest
            self.times.append(
                {"stage": name, "seconds": seconds, "reused": reused, "resumed": resumed}
            )
            self._write()

    def _write(self) -> None:
        if not self.recorded:
            return
        self.store.guard()
        record = {
            "config": self.config.model_dump(mode="json"),
            "versions": machine.versions(),
            "hardware": machine.hardware(),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "current": {name: manifest.folder for name, manifest in self.done.items()},
            "times": self.times,
        }
        self.store.write_json(record, "run.json")
