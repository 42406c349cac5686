"""What a run directory consists of: finished stages with the files that their manifests list, and
the few other files that it has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from s2l_ray.errors import Damaged
from s2l_ray.store.manifest import Manifest
from s2l_ray.store.store import Store

# Files that no manifest lists, and why. Their damage changes no result.
UNLISTED = {
    r"(.+/)?manifest\.json": "has a checksum of its own",
    r"(fold-\d/|toward/)?proxy/[0-9a-f]{16}/dropped\.json": "has a checksum of its own",
    r"run\.json": "has a checksum of its own: it is written after each stage",
    r"lease/(\d{8}\.json|\.lock)": "the owner rewrites it every few seconds; a lock is empty",
    r"report/(comparison|baselines)\.json": "each record has a checksum of its own",
    r"report/(diagnostics|pilot|verdicts|lm-eval)\.json": "for other programs; no stage reads it",
    r"report/(index|comparison|diagnostics)\.html": "a page; each command writes it again",
    r"report/config\.yaml": "the settings for a reader to copy; each command writes them again",
    r"refit\.json": "has a checksum of its own: the files that a corpus began with",
    r"pilot\.(yaml|json)": "the choice of a pilot, checked against its settings when it goes on",
    r"trackers/.+": "ids and event files of trackers, which are theirs",
}
VARIANT = re.compile(r"(.+?/[0-9a-f]{16})/")


@dataclass
class Listing:
    """manifests: those of finished stages and of folders in them, by folder. damaged: manifests
    that cannot be read, by folder, with the reason. variants: the files of each folder that is
    named by a fingerprint, by the outermost such folder. strays: files that nothing accounts for.
    """

    sizes: dict[str, int]  # of all files
    manifests: dict[str, Manifest] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    variants: dict[str, list[str]] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)


def list_files(store: Store) -> Listing:
    """Read all manifests of a run directory, and list its files. O(files)."""
    found = Listing(store.objects.sizes(""))
    listed = set[str]()
    for name in found.sizes:
        folder, _, file = name.rpartition("/")
        if file != "manifest.json":
            continue
        try:
            manifest = store.manifest(folder)
        except Damaged as damage:
            found.damaged[folder] = str(damage)
            continue
        if manifest is not None:
            found.manifests[folder] = manifest
            listed.update(f"{part.folder or folder}/{part.file}" for part in manifest.files)
    for name in found.sizes:
        if match := VARIANT.match(name):
            found.variants.setdefault(match[1], []).append(name)
        known = any(re.fullmatch(pattern, name) for pattern in UNLISTED)
        if name not in listed and not known:
            found.strays.append(name)
    return found
