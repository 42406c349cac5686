"""Trainings that are killed or stopped, and resume points that are not complete."""

import os
import signal
import threading
from pathlib import Path

import pytest
import ray
import ray.train
from support.ceph import wait_for
from support.training import assert_same_bits, config_of

from s2l_ray.errors import Damaged
from s2l_ray.training.resume import TrainingState, checkpoints_so_far, last_resume_point


@pytest.mark.slow
def test_killed_workers_are_replaced_and_a_stopped_run_goes_on_to_the_same_bits(job, undisturbed):
    deadly = ("step-000003", "step-000004")
    with pytest.raises(ray.train.TrainingFailedError):
        job.run("killed", config_of(max_failures=0), deadly)
    assert job.notes("killed") == ["kill step-000003"]
    assert job.store.manifest("killed") is None
    left = job.store.names("killed", "resume", "step-000002")
    assert "manifest.json" in left
    assert {Path(name).suffix for name in left} == {".json", ".safetensors"}  # nothing pickled
    for step in (990, 991):  # two that came to nothing count for none
        job.store.write_bytes(b"", "killed", "resume", f"step-{step:06d}", "model.safetensors")
    manifest = job.run("killed", config_of(max_failures=1), deadly)
    assert [note for note in job.notes("killed") if not note.startswith("kill")] == [
        "from step-000002",
        "from step-000003",
    ]
    assert_same_bits(job, "killed")
    assert manifest.info["history"] == undisturbed.info["history"]
    assert manifest.info["tokens"] == undisturbed.info["tokens"]
    assert [(p.file, p.checksum) for p in manifest.parts] == [
        (p.file, p.checksum) for p in undisturbed.parts
    ]


@pytest.mark.slow
def test_a_killed_controller_is_replaced(job, undisturbed, said):
    def kill():
        wait_for(lambda: job.store.exists("headless", "resume", "step-000002", "manifest.json"))
        [pid] = [
            actor["Pid"]
            for actor in ray._private.state.actors().values()
            if actor["ActorClassName"] == "TrainController" and actor["State"] == "ALIVE"
        ]
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    job.run("headless", config_of(max_failures=1))
    killer.join()
    assert "train: Ray Train's controller failed" in said()
    assert_same_bits(job, "headless")


def test_the_last_resume_point_is_the_newest_whole_one(store, tmp_path, said):
    def keep(step):
        local = tmp_path / str(step)
        local.mkdir()
        (local / "model.safetensors").write_bytes(b"1234")
        files = store.upload(local, "training", "resume", f"step-{step:06d}")
        state = TrainingState(step=step, checkpoints=[500, step])
        store.commit(f"training/resume/step-{step:06d}", "f", files, state.as_info())

    def found(name, step):
        state = TrainingState(step=step, checkpoints=[500, step])
        return last_resume_point(store, "training") == (name, state)

    assert checkpoints_so_far(store, "training") == []
    assert last_resume_point(store, "training") == ("", TrainingState())
    for step in (999_500, 1_000_000):  # by name the other way round
        keep(step)
    store.write_bytes(b"", "training", "resume", "step-1000500", "model.safetensors")
    assert found("step-1000000", 1_000_000)
    store.write_bytes(b"12", "training", "resume", "step-1000000", "model.safetensors")
    assert found("step-999500", 999_500)
    assert checkpoints_so_far(store, "training") == [500, 1_000_000]  # the file may just be gone
    text = said()
    assert "step-1000000/model.safetensors: 2 bytes, the manifest lists 4" in text
    keep(999_900)
    store.write_bytes(b"{", "training", "resume", "step-999900", "manifest.json")
    assert last_resume_point(store, "training")[0] == "step-999500"
    assert "step-999900/manifest.json: damaged: not JSON" in said()
    store.write_bytes(b"1235", "training", "resume", "step-999500", "model.safetensors")
    with pytest.raises(
        Damaged, match=r"step-999500/model\.safetensors: damaged: expected checksum"
    ):
        store.download("training", "resume", "step-999500")
