"""From a run's events to its trackers.

Each tracker has a thread of its own in the driver. A slow one, or one that fails, costs the run
nothing but a warning. No text of examples and no error message gets here: only numbers, names of
stages, sources and files, and pages without examples.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from s2l_ray.execution.events import Item, Listener, Point
from s2l_ray.store import Manifest, Store

logger = logging.getLogger(__name__)

CLOSING = 30.0  # seconds that the end of a run waits for a tracker
WAITING = 10_000  # events that may wait for a slow tracker
LARGEST_TABLE = 1000  # rows

SUMMARY = ("selector", "budget", "seed", "examples", "candidates", "tokens", "groups_above_quota")


class Start(NamedTuple):
    """What a tracker begins with.

    name: of its run, the same whenever this run continues. title: the run's name in its reports.
    known: what the tracker's `ids` were when an earlier command made this tracker run; {} if none.
    """

    store: Store
    name: str
    title: str
    known: dict[str, Any]


class Tracker(Protocol):
    """A tracker's run. One thread calls its methods, which may raise anything."""

    ids: dict[str, Any]  # what it takes to go on with the same run later, as JSON

    def curve(self, series: str, points: list[Point]) -> None: ...

    def seconds(self, stage: str, seconds: float) -> None: ...

    def selection(
        self, name: str, summary: dict[str, Any], tables: dict[str, dict[str, int]]
    ) -> None:
        """tables: by_source and by_cluster, chosen examples by name."""

    def page(self, file: str, text: str) -> None:
        """text: HTML."""

    def end(self, error: str | None) -> None:
        """error: None, "interrupted" or "failed"."""


class Tracking(Listener):
    """Tells one tracker."""

    wants_pages = True

    def __init__(self, kind: str, store: Store, title: str) -> None:
        self.kind, self.store, self.title = kind, store, title
        self.names: dict[str, str] = {}  # by the folders of stages
        self.calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(WAITING)
        self.thread: threading.Thread | None = None
        self.over = False  # after a failure

    def expected(self, fingerprint: str, items: list[Item]) -> None:
        self.names = {folder: each.name for each in items for folder in each.folders}
        if self.thread is None:  # not when the run starts over after a repair
            self.thread = threading.Thread(
                target=self._work, args=(fingerprint,), name=self.kind, daemon=True
            )
            self.thread.start()

    def stage_ended(self, stage: Manifest, seconds: float, reused: bool) -> None:
        name = self._name(stage.folder)
        if not reused:
            self._put(lambda tracker: tracker.seconds(name, seconds))
        if stage.folder.startswith("selections/"):
            summary = {key: stage.info[key] for key in SUMMARY if stage.info.get(key) is not None}
            tables = tables_of(stage.info)
            self._put(lambda tracker: tracker.selection(name, summary, tables))

    def trained(self, stage: str, points: list[Point]) -> None:
        name = self._name(stage)
        self._put(lambda tracker: tracker.curve(name, points))

    def reported(self, file: str, page: str) -> None:
        self._put(lambda tracker: tracker.page(file, page))

    def ended(self, error: BaseException | None) -> None:
        if self.thread is None:
            return
        how = None if error is None else "failed"
        if isinstance(error, KeyboardInterrupt):
            how = "interrupted"
        self._put(lambda tracker: tracker.end(how))
        self._put(None)
        self.thread.join(CLOSING)
        if self.thread.is_alive():
            logger.warning(
                f"trackers: {self.kind} has not taken everything after {CLOSING:.0f} s; the run "
                f"ends without it"
            )

    def _name(self, folder: str) -> str:
        """Return a name that tells the stage from others of this run. Selections of one name may
        have several budgets."""
        name, _, fingerprint = folder.rpartition("/")
        other = f"{name} {fingerprint[:6]}" if name.startswith("selections/") else name
        return self.names.get(folder, other)

    def _put(self, call: Callable[[Tracker], None] | None) -> None:
        if self.over or self.thread is None:
            return
        try:
            self.calls.put_nowait(call)
        except queue.Full:
            self._fail(f"{WAITING:,} events wait for it")

    def _work(self, fingerprint: str) -> None:
        try:
            tracker = self._begin(fingerprint)
            while not self.over and (call := self.calls.get()) is not None:
                call(tracker)
        except Exception as error:  # a tracker may raise anything, and must not cost the run
            self._fail(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _begin(self, fingerprint: str) -> Tracker:
        file = f"{self.kind}-{fingerprint}.json"
        there = self.store.exists("trackers", file)
        known = self.store.read_json("trackers", file) if there else {}
        name = f"{self.store.uri.rpartition('/')[2]}-{fingerprint}"
        tracker = tracker_class(self.kind)(Start(self.store, name, self.title, known))
        if tracker.ids != known:
            self.store.write_json(tracker.ids, "trackers", file)
        return tracker

    def _fail(self, why: str) -> None:
        if not self.over:
            self.over = True
            logger.warning(f"trackers: {self.kind} failed, the run goes on without it: {why}")


def tracker_class(kind: str) -> Callable[[Start], Tracker]:
    return import_module(f"s2l_ray.execution.trackers.{kind}_tracker").Tracker


def tables_of(info: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the counts of a selection by source and by cluster, the largest if there are many."""
    tables = {"by_source": dict(info.get("by_source") or {})}
    if info.get("by_cluster") is not None:
        tables["by_cluster"] = {str(n): count for n, count in enumerate(info["by_cluster"])}
    return {
        name: counts
        if len(counts) <= LARGEST_TABLE
        else dict(sorted(counts.items(), key=lambda item: -item[1])[:LARGEST_TABLE])
        for name, counts in tables.items()
    }


def faults(kinds: Sequence[str], run_dir: str) -> Iterator[str]:
    """Yield what keeps trackers from working that can be known before a run."""
    for kind in kinds:
        found = find_spec(kind)
        if found is None or found.origin is None:  # a folder that W&B left, which has its name
            yield (
                f"trackers: the package of {kind} is not installed; run pip install "
                f'"s2l-ray[{kind}]", or leave out {kind}'
            )
        elif kind == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            yield (
                "trackers: mlflow: MLFLOW_TRACKING_URI is not set; expected the address of a "
                "tracking server or store"
            )
        elif kind == "wandb":
            yield from _faults_of_wandb("://" in run_dir)


def _faults_of_wandb(remote: bool) -> Iterator[str]:
    import wandb

    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not wandb.api.api_key:
        yield (
            "trackers: wandb: no API key; set WANDB_API_KEY, run `wandb login`, or set "
            "WANDB_MODE=offline"
        )
    if mode == "offline" and remote and not os.environ.get("WANDB_DIR"):
        yield (
            "trackers: wandb: WANDB_MODE is offline and run_dir is an object store; set WANDB_DIR "
            "to a folder that stays after the run"
        )
