"""run.json: what a run directory says of its last command, and what is current."""

from __future__ import annotations

import logging
import re
from typing import Any

from s2l_ray.store import Store
from s2l_ray.store.checksums import KEY, is_whole, marked
from s2l_ray.store.listing import list_files

logger = logging.getLogger(__name__)

RECORD = "run.json"
NO_STAGES = ("models/", "revisions/", "tokenizers", "evaluations/corpora/")  # but with manifests


def read_record(store: Store) -> dict[str, Any]:
    """Return what run.json holds; empty if there is none. ValueError if it is damaged.

    config, versions, hardware, updated; current: the folder of each stage, by name; models; times;
    used: by command, the folders whose manifests its last run read or wrote; gpu_hours: of all
    commands.
    """
    if not store.exists(RECORD):
        return {}
    record, address = store.read_json(RECORD), store.address(RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("current"), dict):
        raise ValueError(f"{address}: damaged: expected `current`, the folders of stages by name")
    if KEY in record and not is_whole(record):  # version 0.1 wrote none
        raise ValueError(f"{address}: damaged: its content does not match its checksum")
    return record


class RunRecord:
    """run.json, kept while a command runs."""

    def __init__(self, store: Store, command: str) -> None:
        """Read what the file held `before`. A damaged file is set aside, and what is current is
        found out from the manifests."""
        self.store, self.command, self.written = store, command, 0
        try:
            self.before = read_record(store)
            self.current = dict[str, str](self.before.get("current", {}))
            self.used = dict[str, list[str]](self.before.get("used", {}))
            if self.before and "used" not in self.before:
                self.used = {"an earlier version": sorted(list_files(store).variants)}
        except ValueError as error:
            self.before = {}
            logger.warning(f"{error}; it is kept as {store.move_aside(RECORD)} and written again")
            self.current = newest_stages(store)
            self.used = {"before run.json was damaged": sorted(list_files(store).variants)}
        self.earlier = set(self.used.get(command, ()))
        self.rest: dict[str, Any] = {}

    def write(self, **rest: Any) -> None:
        """Write the file, with these values from now on. The caller checks the lease."""
        self.rest |= rest
        folders = [*self.store.met]  # other threads may add to them meanwhile
        self.written = len(folders)
        met = {outermost(folder) for folder in folders}
        self.used[self.command] = sorted(met | self.earlier)
        record = self.rest | {"current": self.current, "used": self.used}
        self.store.write_json(marked(record), RECORD)

    def update(self, **rest: Any) -> None:
        """Write the file if stages were met since it was written."""
        if len(self.store.met) > self.written:
            self.write(**rest)

    def end(self, *, finished: bool, **rest: Any) -> None:
        """Write the file at the end of a command. finished: it met all that it needs; `rest` is
        all then."""
        if finished:
            self.earlier = set()
        if self.rest or finished:
            self.store.guard()
            self.write(**rest)


def outermost(folder: str) -> str:
    """Return the stage's folder of a folder in it, such as a corpus's held-out share."""
    found = re.match(r".+?/[0-9a-f]{16}(?=/|$)", folder)
    return found[0] if found else folder


def newest_stages(store: Store) -> dict[str, str]:
    """Return the folder of each finished stage by its name; of several, the newest."""
    ages: dict[str, list[tuple[float, str]]] = {}
    listing = list_files(store)
    for folder in listing.manifests.keys() & listing.variants.keys():
        name = folder.rpartition("/")[0]
        if not name.startswith(NO_STAGES):
            age = store.objects.age(f"{folder}/manifest.json")
            ages.setdefault(name, []).append((age, folder))
    return {name: min(found)[1] for name, found in sorted(ages.items())}
