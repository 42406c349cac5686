"""What a run says before it starts: which stages exist already, and which are to do."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence

from s2l_ray.execution.events import Item
from s2l_ray.store import Store
from s2l_ray.training.resume import resume_points

logger = logging.getLogger(__name__)

MOST = 6  # stages of one kind that are named; of more, their number


def announce(store: Store, items: Sequence[Item]) -> None:
    """Log which of the stages exist, and which are to do, and from where."""
    known = {item.name: _exists(store, item) for item in items if item.folders}
    there, to_do = list[str](), list[str]()
    for item in items:
        if item.count > 1:
            to_do.append(f"up to {item.count:,} {item.name}")
        # The folder of some depends on what is made before. If all of that exists, so does theirs.
        elif known[item.name] if item.folders else all(known.values()) and _any(store, item):
            there.append(item.name)
        else:
            to_do.append(item.name + _begun(store, item))
    if there:
        logger.info(f"reused: {', '.join(_shortened(there))}")
    logger.info(f"to do: {', '.join(_shortened(to_do)) or 'nothing'}")


def _exists(store: Store, item: Item) -> bool:
    return any(store.exists(folder, "manifest.json") for folder in item.folders)


def _any(store: Store, item: Item) -> bool:
    return any(store.exists(item.name, name, "manifest.json") for name in store.names(item.name))


def _begun(store: Store, item: Item) -> str:
    for folder in item.folders:
        if points := resume_points(store, folder):
            return f" (from {points[0].split('-lease')[0]} on)"
        if found := len(store.found(folder)):
            return f" ({found:,} parts are there)"
    return ""


def _shortened(names: list[str]) -> list[str]:
    """Return the names; many of one kind as their number, in the place of the first."""
    kinds = [re.split(r"/| \(", name)[0] for name in names]
    counts, found = Counter(kinds), dict[str, None]()  # in order
    for kind, name in zip(kinds, names, strict=True):
        found[name if counts[kind] <= MOST else f"{counts[kind]:,} {kind}"] = None
    return [*found]
