"""Resume points: from which an unfinished training goes on."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import Any

from s2l_ray.store import Manifest, Store

logger = logging.getLogger(__name__)


def resume_name(step: int, epoch: int | None) -> str:
    """Of a resume point. Two owners of a run, an old one unaware of the new, never share one."""
    return f"step-{step:06d}" + (f"-lease-{epoch}" if epoch else "")


def resume_points(store: Store, folder: str) -> list[str]:
    """Names of the resume points of a training, the newest first, whole or not."""
    found = []
    for name in store.names(folder, "resume"):
        if match := re.fullmatch(r"step-(\d+)(?:-lease-(\d+))?", name):
            found.append((int(match[1]), int(match[2] or 0), name))
    return [name for _, _, name in sorted(found, reverse=True)]


def resume_point(store: Store, folder: str, name: str) -> tuple[Manifest | None, str | None]:
    """Its manifest, if it has one that can be read, and what is wrong with it or its files."""
    try:
        manifest = store.manifest(f"{folder}/resume/{name}")
        return manifest, store.fault(manifest) if manifest else None
    except ValueError as error:
        return None, str(error)


def checkpoints_so_far(store: Store, folder: str) -> list[int]:
    """Steps of the checkpoints that an unfinished training has kept, also while it runs."""
    for name in resume_points(store, folder):
        with suppress(OSError, ValueError):  # of one that is removed just now
            if manifest := store.manifest(f"{folder}/resume/{name}"):
                return manifest.info["checkpoints"]
    return []


def last_resume_point(store: Store, folder: str) -> tuple[str, dict[str, Any]]:
    """Name of the newest whole resume point ("" if there is none), and the training up to there.

    Each has a manifest of its own. One that is not whole is named and passed over.
    """
    for name in resume_points(store, folder):
        manifest, fault = resume_point(store, folder, name)
        if fault:
            logger.info(f"{fault}; training goes on from an earlier step")
        elif manifest:
            return name, manifest.info
    return "", {
        "step": 0, "workers": None, "seconds": 0.0, "waiting": 0.0, "tokens": 0,
        "padded_tokens": 0, "history": [], "checkpoints": [], "files": [],
    }  # fmt: skip
