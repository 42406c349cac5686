"""A run without Ray: the calls of a run's stages to its store, in order, with small contents.

`python -m support.plain_run URI SECONDS` says `owns N`, then `finished` or its error. Parts are the
same in every run. A checkpoint, a report and run.json say who wrote them, as those of a training
that is not deterministic differ.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from s2l_ray.store import Store
from s2l_ray.store.checksums import checksum_of
from s2l_ray.store.lease import Lease
from s2l_ray.store.owner import lease_name, newest_lease
from s2l_ray.training.resume import (
    TrainingState,
    last_resume_point,
    resume_name,
    resume_points,
)

STAGES = ("corpus", "tokens", "proxy", "losses", "trajectories", "clusters", "selections")
ROWS, PARTS, STEPS = 600, 6, 8
PAUSE = 0.01  # seconds of work between two changes


def run(store):
    current = {}
    for stage in STAGES:
        folder = f"{stage}/f"
        if store.manifest(folder) is None:
            (train if stage == "proxy" else make_parts)(store, folder)
        current[stage] = folder
        store.write_json({"by": store.owner, "current": current}, "run.json")
    store.write_bytes(store.owner.encode(), "report", "index.html")


def make_parts(store, folder):
    found, parts = store.found(folder), []
    for number in range(PARTS):
        unit = f"part-{number:05d}"
        part = store.found_part(folder, found[unit]) if unit in found else None
        if part is None:
            ids = range(number, ROWS, PARTS)
            part = store.write_part(pa.table({"example_id": ids}), folder, unit)
            time.sleep(PAUSE)
        parts.append(part)
    if folder.startswith("selections/"):
        store.write_json({"by": store.owner}, folder, "selection.json")
    store.commit(folder, "f", parts, {})


def train(store, folder):
    point, state = last_resume_point(store, folder)
    for name in resume_points(store, folder):
        if name > point:
            store.remove(folder, "resume", name)
    for step in range(state.step + 1, STEPS + 1):
        checkpoint, point = f"checkpoint-{step:06d}", resume_name(step, store.epoch)
        files = write(store, [folder, checkpoint], "model.safetensors", "config.json")
        named = [(f"{checkpoint}/{part.file}", part) for part in files]
        state.files += [replace(part, unit=path, file=path) for path, part in named]
        state.step, state.checkpoints = step, [*state.checkpoints, step]
        parts = write(store, [folder, "resume", point], "optimizer-00000.safetensors")
        store.commit(f"{folder}/resume/{point}", "f", parts, state.as_info())
        for name in resume_points(store, folder)[2:]:
            store.remove(folder, "resume", name)
    store.commit(folder, "f", state.files, {"checkpoints": state.checkpoints})
    store.remove(folder, "resume")


def write(store, folder, *names):
    with tempfile.TemporaryDirectory() as local:
        for name in names:
            Path(local, name).write_text(f"{'/'.join(folder)}/{name} by {store.owner}")
        time.sleep(PAUSE)
        return store.upload(local, *folder)


def check(store):
    """All that the newest owner made or found is whole, and its own has stayed."""
    for stage in STAGES:
        manifest = store.manifest(f"{stage}/f")
        assert store.fault(manifest) is None
        for part in manifest.parts:
            found = checksum_of(store.read_bytes(manifest.folder, part.file))
            assert found == part.checksum, f"{manifest.folder}/{part.file}"
    steps = TrainingState.of({"checkpoints": store.manifest("proxy/f").info["checkpoints"]})
    assert steps.checkpoints == list(range(1, STEPS + 1))
    owner = store.read_json("lease", lease_name(newest_lease(store)))["owner"]
    assert store.read_json("run.json")["by"] == owner
    assert list(store.read_json("run.json")["current"]) == list(STAGES)
    assert store.read_bytes("report", "index.html").decode() == owner


def main():
    store = Store(sys.argv[1])
    try:
        lease = Lease(store, seconds=float(sys.argv[2])).take()
        print("owns", store.epoch, flush=True)
        run(store)
        lease.release()
        print("finished", flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main()
