"""A run as it goes. Every stage's output is keyed by a fingerprint of its settings and inputs:
found finished, it is used again; anything else is made beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from s2l_ray import driver
from s2l_ray.config import RunConfig, fingerprint
from s2l_ray.store import Manifest, Store


@dataclass
class Run:
    """A run as it goes: its store and config, the finished stages by name, and their times."""

    config: RunConfig
    store: Store
    done: dict[str, Manifest] = field(default_factory=dict)
    times: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def start(cls, config: RunConfig) -> Run:
        store = Store(config.run_dir)
        if driver.in_job() and "://" not in config.run_dir and not config.run_dir.startswith("/"):
            raise ValueError(
                f"run_dir: {config.run_dir!r} is relative, and a Ray job's working directory goes "
                f"with the job; wanted s3://… or an absolute path that every node sees"
            )
        driver.connect()
        return cls(config, store)

    def stage(self, name: str, inputs: list[Any], make: Callable[..., Manifest]) -> Manifest:
        """The stage's manifest: as found, or from `make(folder=…, fingerprint=…)`."""
        return self.stages({name: inputs}, lambda missing: [make(**missing[name])])[name]

    def stages(
        self,
        inputs: dict[str, list[Any]],
        make: Callable[[dict[str, dict[str, str]]], list[Manifest]],
    ) -> dict[str, Manifest]:
        """Several stages whose missing ones are made together.

        `make` gets {name: {"folder": …, "fingerprint": …}} of the missing, and returns their
        manifests in that order.
        """
        missing = {}
        for name, given in inputs.items():
            mark = fingerprint(*given)
            known = self.done.get(name)
            if known is not None and known.fingerprint == mark:  # met before in this run
                continue
            folder = f"{name}/{mark}"
            manifest = self.store.manifest(folder)
            if manifest is None:
                missing[name] = {"folder": folder, "fingerprint": mark}
            else:
                self._finish(name, manifest, 0.0, reused=True)
        if missing:
            began = time.monotonic()
            made = make(missing)
            seconds = (time.monotonic() - began) / len(made)  # each had its share
            for name, manifest in zip(missing, made, strict=True):
                self._finish(name, manifest, seconds, reused=False)
        return {name: self.done[name] for name in inputs}

    def _finish(self, name: str, manifest: Manifest, seconds: float, *, reused: bool) -> None:
        with self._lock:  # targets may be trained by several threads
            self.done[name] = manifest
            self.times.append({"stage": name, "seconds": seconds, "reused": reused})
            self._write()

    def _write(self) -> None:
        record = {
            "config": self.config.model_dump(mode="json"),
            "versions": driver.versions(),
            "hardware": driver.hardware(),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "current": {name: manifest.folder for name, manifest in self.done.items()},
            "times": self.times,
        }
        self.store.write_json(record, "run.json")
