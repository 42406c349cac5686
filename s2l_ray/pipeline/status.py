"""What a run directory says about its run: done, running, to do.

Reads the store alone, without Ray or torch. The newest lease says who runs, and what
(pipeline/state.py). Finished stages have manifests; unfinished ones have parts or resume points in
their folders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from s2l_ray.config import load
from s2l_ray.formatting import duration
from s2l_ray.pipeline.record import read_record
from s2l_ray.pipeline.state import FORMAT
from s2l_ray.store import Manifest, Store, preflight
from s2l_ray.store.lease import is_dead_here
from s2l_ray.store.owner import last_owner
from s2l_ray.store.store import part_unit
from s2l_ray.training.resume import resume_points

RunsState = Literal["running", "finished", "failed", "interrupted", "died", "ended"]
StagesState = Literal["done", "running", "stopped", "to do"]


AHEAD = 5.0  # seconds that clocks may differ by
FEW = 4  # stages of one kind that are listed each, if the agenda does not name them


@dataclass(frozen=True)
class StageStatus:
    """A stage, or `count` stages of one kind, `done` of which are there.

    state: `stopped` if it was begun and nobody makes it now. rows, parts, bytes: of what is there.
    seconds: that it took in the last command, None if that found it. since: when it began, if it
    runs or was running. progress: its progress lines, as in RunState. resume: the step of the
    newest resume point.
    """

    name: str
    state: StagesState
    folder: str = ""
    count: int = 1
    done: int = 0
    rows: int | None = None
    parts: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    since: str | None = None
    progress: list[dict[str, Any]] = field(default_factory=list)
    resume: int | None = None


@dataclass(frozen=True)
class Status:
    """state: `ended` if the run did not leave how it ended.

    command, owner, since: of the newest run. until: when it ended, or was last known to be alive.
    progress: lines that belong to no stage. others: stages that earlier commands made and this one
    does not need. notes: sentences on what is not known.
    alarms: those in run.json, with stage, kind, headline and advice.
    """

    run_dir: str
    state: RunsState
    command: str | None
    owner: dict[str, Any]
    since: str | None
    until: str
    error: str | None
    stages: list[StageStatus]
    others: list[StageStatus]
    progress: list[dict[str, Any]]
    notes: list[str]
    alarms: list[dict[str, str]]


def open_run(place: str, overrides: list[str]) -> Store:
    """Open the run directory that a command names: itself, or a configuration with overrides.

    ValueError if there is no run; StorageError if it cannot be read.
    """
    if place.endswith((".yaml", ".yml")):
        config = load(place, overrides)
        store = Store(config.run_dir, config.storage)
    elif overrides:
        raise ValueError(
            f"{overrides[0]}: a run directory takes no overrides; expected CONFIG.yaml before them"
        )
    elif "://" in place and not re.fullmatch(r"s3://[^/@:?#\s]+(/[^@?#]*)?", place):
        raise ValueError(f"{place}: expected a local path or s3://bucket/prefix")
    else:
        store = Store(place)
    names = preflight.names(store)
    if store.is_local and not Path(store.uri).is_dir():
        there = "not a folder" if Path(store.uri).exists() else "there is no such folder"
        raise ValueError(f"{store.uri}: {there}; expected a run directory, or a run's CONFIG.yaml")
    if not {*names} - {"probe"}:
        raise ValueError(f"{store.uri}: there is nothing: no run has begun there, or just now")
    if not {"run.json", "lease"} & set(names):
        found = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise ValueError(
            f"{store.uri}: not a run directory: expected run.json or lease/ in it, found {found}"
        )
    return store


class Reader:
    """Reads the status of one run again and again. Manifests of finished stages are read once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.manifests: dict[str, Manifest] = {}

    def read(self) -> Status:
        """ValueError if a file of the run is damaged or of an unknown format."""
        lease, age = last_owner(self.store)
        run, notes = lease.get("run") or {}, []
        if not lease:
            notes.append("no run has left a lease: this is a copy of a part of a run directory")
        elif not run:
            notes.append("what was to do is unknown: a version before 0.2 made this run")
        elif run.get("format") != FORMAT:
            version, run = run.get("version"), {}
            notes.append(f"what is to do is unknown: version {version} of s2l_ray made this run")
        elif not run["agenda"]:
            notes.append("what is to do is not known yet: the run has not got to its first stage")
        if age < -AHEAD and not lease["released"]:
            future = f"the owner's last sign of life is {duration(-age)} in the future"
            notes.append(f"{future}: a clock was set back; whether the run is alive is not known")
        current, times, alarms = self._recorded()
        state = _state(lease, run, age)
        stages = self._stages(run, state)
        shown = {each.folder for each in stages} | set(run.get("done", ()))
        others = [
            self._stage(name, folder, None if run else times.get(name))
            for name, folder in current.items()
            if folder not in shown
        ]
        if not run:
            stages, others = others, []
        others = [each for each in others if each.state == "done"]  # the rest was removed
        last = datetime.now(UTC) - timedelta(seconds=age)
        return Status(
            run_dir=self.store.uri,
            state=state,
            command=run.get("command"),
            owner={name: lease.get(name) for name in ("host", "job", "pid")},
            since=lease.get("since"),
            until=run.get("ended") or last.isoformat(timespec="seconds"),
            error=run.get("error") if state == "failed" else None,
            stages=stages,
            others=others,
            progress=[each for each in run.get("progress", ()) if not each["folders"]],
            notes=notes,
            alarms=alarms,
        )

    def _recorded(self) -> tuple[dict[str, str], dict[str, float], list[dict[str, str]]]:
        """Return from run.json the current stages' folders, the seconds of those made, and what is
        alarming about them."""
        record = read_record(self.store)
        made = [each for each in record.get("times", ()) if not each["reused"]]
        times = {each["stage"]: each["seconds"] for each in made}
        return record.get("current", {}), times, record.get("alarms", [])

    def _stages(self, run: dict[str, Any], state: RunsState) -> list[StageStatus]:
        """Return the stages of the agenda, and those that it did not foresee."""
        done = run.get("done", {})
        running = {each["folder"]: each["since"] for each in run.get("running", ())}
        found, listed = list[StageStatus](), set[str]()
        for item in run.get("agenda", ()):
            if item["count"] > 1:
                mine = [folder for folder in done if _belongs(folder, item)]
                listed.update(mine)
                whole = state == "finished" or len(mine) >= item["count"]
                found.append(
                    StageStatus(
                        item["name"],
                        "done" if whole else "to do",
                        count=item["count"],
                        done=len(mine),
                    )
                )
                continue
            mine = [folder for folder in (*done, *running) if _belongs(folder, item)]
            each = self._newest(item["name"], mine or item["folders"], done)
            listed.add(each.folder)
            if each.state != "to do" or state != "finished":  # it did without this one
                found.append(each)
        kinds: dict[str, list[str]] = {}
        for folder in done.keys() - listed:
            kinds.setdefault(_kind(folder), []).append(folder)
        for kind, folders in sorted(kinds.items()):
            if len(folders) > FEW:  # a comparison has hundreds; their manifests are not read
                count = len(folders)
                found.append(StageStatus(kind, "done", count=count, done=count))
            else:
                found += [self._stage(_name(each), each, done[each]) for each in sorted(folders)]
        for folder in running.keys() - listed:
            found.append(self._stage(_name(folder), folder, None))
        alive = state == "running"
        return [
            _begun(each, running.get(each.folder), run["progress"], alive)
            if each.state != "done"
            else each
            for each in found
        ]

    def _newest(
        self, name: str, folders: Sequence[str], seconds: dict[str, float | None]
    ) -> StageStatus:
        """Look for a stage in the folders where it may be. seconds: by folder."""
        found = [self._stage(name, each, seconds.get(each)) for each in folders or [""]]
        order: list[StagesState] = ["done", "stopped", "to do"]
        return min(found, key=lambda each: order.index(each.state))

    def _stage(self, name: str, folder: str, seconds: float | None) -> StageStatus:
        """Look into a stage's folder; "" if it is unknown."""
        if not folder:
            return StageStatus(name, "to do")
        if folder not in self.manifests and (manifest := self.store.manifest(folder)):
            self.manifests[folder] = manifest
        if manifest := self.manifests.get(folder):
            return StageStatus(
                name,
                "done",
                folder,
                done=1,
                rows=manifest.rows,
                parts=len(manifest.parts),
                bytes=sum(part.bytes for part in manifest.parts),
                seconds=seconds,
            )
        sizes = self.store.objects.sizes(folder)
        points = resume_points(self.store, folder)
        return StageStatus(
            name,
            "stopped" if sizes else "to do",
            folder,
            parts=sum(part_unit(file) is not None for file in sizes) or None,
            bytes=sum(sizes.values()) or None,
            resume=int(points[0].split("-")[1]) if points else None,
        )


def _begun(
    stage: StageStatus, since: str | None, progress: list[dict[str, Any]], alive: bool
) -> StageStatus:
    """Add what the run's record says of a stage that is not finished."""
    if since is None:
        return stage
    mine = [each for each in progress if stage.folder in each["folders"]]
    return replace(stage, state="running" if alive else "stopped", since=since, progress=mine)


def _state(lease: dict[str, Any], run: dict[str, Any], age: float) -> RunsState:
    if not lease:
        return "ended"
    if lease["released"]:
        if not run:
            return "ended"
        ends: dict[str | None, RunsState] = {None: "finished", "interrupted": "interrupted"}
        return ends.get(run["error"], "failed")
    return "died" if age > lease["seconds"] or is_dead_here(lease) else "running"


def _belongs(folder: str, item: dict[str, Any]) -> bool:
    if item["folders"]:
        return folder in item["folders"]
    return re.fullmatch(item["pattern"] or re.escape(item["name"]), _name(folder)) is not None


def _kind(folder: str) -> str:
    """Return such as "targets/*/tokens"."""
    return re.sub(r"^((?:race/)?(?:targets|selections|rankings))/[^/]+", r"\1/*", _name(folder))


def _name(folder: str) -> str:
    return folder.rpartition("/")[0]
