"""What a run directory holds that nothing refers to, and its removal (`s2l-ray gc`)."""

from __future__ import annotations

from typing import Any, NamedTuple

from s2l_ray.config import ModelConfig
from s2l_ray.formatting import data_size, plural
from s2l_ray.models.origin import origin_of
from s2l_ray.pipeline import records
from s2l_ray.pipeline.record import outermost, read_record
from s2l_ray.store import Manifest, Store
from s2l_ray.store.lease import Lease
from s2l_ray.store.listing import Listing, list_files
from s2l_ray.store.objects import ABANDONED
from s2l_ray.store.owner import lease_name

NO_RECORD = (
    "{uri}: run.json does not say what the commands use (no stage is finished, or an earlier "
    "version wrote it); run a command there first"
)


LISTED_SINCE_0_2 = ("/centers.arrow", "/selection.json")


class Garbage(NamedTuple):
    """files: by the folder of a stage that nothing refers to, and under "" those that no stage
    lists."""

    files: dict[str, list[str]]
    bytes: dict[str, int]
    kept: int  # stages

    @property
    def stages(self) -> list[str]:
        return sorted(folder for folder in self.files if folder)


def find_garbage(store: Store) -> Garbage:
    """Find stages that nothing refers to, and files that no stage lists.

    A stage is referred to by run.json (it is current, or the last run of a command used it or was
    making it) or by a record of a comparison; a tokenizer or a hub model by a stage's manifest.
    ValueError if run.json is damaged or does not tell.
    """
    record = read_record(store)
    if "used" not in record:
        raise ValueError(NO_RECORD.format(uri=store.uri))
    wanted = {*record["current"].values()}.union(*record["used"].values())
    for name in (records.COMPARISON, records.BASELINES):
        wanted |= {each["target"] for each in records.read(store, name) if "target" in each}
    listing = list_files(store)
    for folder in [*wanted]:
        if manifest := listing.manifests.get(folder):
            wanted |= _needed_by(manifest)
    # Which commit a hub's branch was is not found out again; it takes no room.
    wanted |= {folder for folder in listing.variants if folder.startswith("revisions/")}
    kept = {outermost(folder) for folder in wanted} & listing.variants.keys()
    files = {folder: found for folder, found in listing.variants.items() if folder not in kept}
    of_stages = {name for found in files.values() for name in found}
    files[""] = [name for name in _loose(listing) if name not in of_stages]
    files = {folder: found for folder, found in files.items() if found}
    sizes = {folder: sum(listing.sizes[name] for name in found) for folder, found in files.items()}
    return Garbage(files, sizes, len(kept))


def collect(store: Store) -> Garbage:
    """Remove what `find_garbage` finds, as the owner of the run directory.

    A stage's manifest goes first: what is left after a stop is no finished stage.
    """
    lease = Lease(store, seconds=store.config.lease_seconds, job="gc").take()
    try:
        if last := _last_run(store, lease.number - 1):
            lease.tell(last)  # `status` goes on telling of it
        found = find_garbage(store)
        for folder, names in found.files.items():
            store.guard()
            for name in [f"{folder}/manifest.json", folder] if folder else names:
                store.remove(name)
        store.objects.sweep(ABANDONED)
    finally:
        lease.release()
    return found


def _needed_by(manifest: Manifest) -> set[str]:
    """Return the folders of the tokenizer, the hub models and the generations that a stage's
    manifest names."""
    info = manifest.info
    found = {info.get("tokenizer"), *info.get("folders", ()), *info.get("bases", ())}
    found |= {each["folder"] for each in info.get("generations", ())}
    if model := info.get("model"):
        found.add(origin_of(ModelConfig(name=model["name"], revision=model["revision"])))
    return {folder for folder in found if folder is not None}


def _last_run(store: Store, number: int) -> dict[str, Any] | None:
    """Return what the owner of a lease told; None if there was none or its file is damaged."""
    name = lease_name(number)
    try:
        return dict(store.read_json("lease", name)["run"]) if store.exists("lease", name) else None
    except (ValueError, TypeError, KeyError):
        return None


def _loose(listing: Listing) -> list[str]:
    """Return the files of finished stages that no manifest lists. Those of unfinished stages are
    what these continue from; a damaged manifest may have listed what is in its folder."""
    damaged = tuple(f"{folder}/" for folder in listing.damaged)
    return [
        name
        for name in listing.strays
        if outermost(name) in listing.manifests
        and not name.startswith(damaged)
        and not name.endswith(LISTED_SINCE_0_2)
    ]


def as_text(found: Garbage, *, dry_run: bool) -> str:
    """Return lines on what was removed, or would be."""
    lines = [f"{folder}: {data_size(found.bytes[folder])}" for folder in found.stages]
    lines += [f"{name}: listed by no stage" for name in found.files.get("", ())]
    total = data_size(sum(found.bytes.values()))
    done = "would remove" if dry_run else "removed"
    stages, others = plural(len(found.stages), "stage"), len(found.files.get("", ()))
    loose = f" and {plural(others, 'other file')}" if others else ""
    lines.append(f"{done} {stages}{loose}, {total}; {plural(found.kept, 'stage')} kept")
    return "\n".join(lines)
