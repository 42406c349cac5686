"""Scoring beside the training: the same losses, made earlier; nothing where there is no room."""

import itertools
import shutil
import threading
import time
from pathlib import Path

import pytest
import ray
from support.runs import corpus, settings

import s2l_ray
from s2l_ray.config import WorkersConfig, validate
from s2l_ray.errors import ConfigError
from s2l_ray.scoring import while_training as overlap
from s2l_ray.scoring.while_training import meanwhile
from s2l_ray.store import Store


def files(folder, stage):
    """unit with the checksum of its content -> when it was written"""
    found = Path(folder).glob(f"{stage}/*/**/*")
    return {str(path.relative_to(folder)): path.stat().st_mtime for path in found if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_reserved(local_ray):
    yield
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < until, ray.available_resources()
        time.sleep(0.5)


@pytest.fixture(scope="module")
def runs(local_ray, tmp_path_factory):
    """A run with scoring beside the training, and the same with that training scored afterwards."""
    folders = [tmp_path_factory.mktemp("overlap") / way for way in ("meanwhile", "after")]
    for folder in folders:
        if folder.name == "after":
            without = shutil.ignore_patterns("losses", "details")
            shutil.copytree(folders[0], folder, ignore=without)
        config = settings(
            folder,
            proxy__max_steps=3000,  # long enough for actors to start, twice
            proxy__num_checkpoints=6,
            proxy__resume_every=3000,
            trajectories__while_training=folder.name == "meanwhile",
            evaluation__baselines=["random", "el2n"],
        )
        s2l_ray.select(corpus(), config)
    return folders


@pytest.mark.slow
def test_checkpoints_are_scored_while_training_goes_on(runs):
    meanwhile, _ = runs
    [end] = [at for name, at in files(meanwhile, "proxy").items() if "manifest" in name]
    losses = files(meanwhile, "losses")
    early = [name for name, at in losses.items() if name.endswith(".arrow") and at < end]
    assert len(early) >= 3  # one checkpoint at least
    # The first checkpoint's losses come of the pass that makes its details, and of no other.
    details = files(meanwhile, "details/early")
    first = [name for name in losses if "step-000500/" in name and name.endswith(".arrow")]
    assert len(first) == 3 and not set(first) & set(early)
    assert any(at < end for name, at in details.items() if name.endswith(".arrow"))


@pytest.mark.slow
def test_the_seconds_of_a_stage_begun_before_are_known_to_be_of_the_rest(runs):
    resumed = []
    for folder in runs:
        times = Store(folder).read_json("run.json")["times"]
        resumed.append({entry["stage"]: entry["resumed"] for entry in times}["losses"])
    assert resumed == [True, False]


@pytest.mark.slow
def test_the_losses_are_those_of_scoring_afterwards(runs):
    names = [set(files(folder, "losses")) for folder in runs]
    assert names[0] == names[1]  # with their checksums
    assert set(files(runs[0], "details")) == set(files(runs[1], "details"))
    assert len(names[0]) == 6 * 3 + 1


def test_without_room_nothing_begins(local_ray):
    asked = []
    workers = WorkersConfig(cpus_per_worker=10_000)
    step = itertools.count().__next__
    with meanwhile(lambda: [1], lambda steps, stop: asked.append(steps), workers, step):
        time.sleep(4)
    assert asked == []


def test_a_place_is_left_to_a_training_that_stands_still(local_ray, monkeypatch):
    """As where a worker has died, and its place is to be its successor's."""
    monkeypatch.setattr(overlap, "PAUSE", 0.1)
    asked, reached, seen = threading.Event(), 7, []

    def step():
        seen.append(reached)
        return reached

    with meanwhile(lambda: [1], lambda steps, stop: asked.set(), WorkersConfig(), step):
        until = time.monotonic() + 60
        while len(seen) < 5:  # there was a place: it waits for a step
            assert time.monotonic() < until
            time.sleep(0.1)
        whole = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
        assert whole.wait(30)  # nothing is held meanwhile
        reached = 8
        time.sleep(2)
        assert not asked.is_set()  # a step was taken, but the place is gone
        ray.util.remove_placement_group(whole)
        while not asked.wait(0.1):
            assert time.monotonic() < until
            reached += 1


def test_new_checkpoints_are_scored_once_and_an_error_does_not_end_the_training(local_ray, said):
    there, asked = [10], []

    def score(steps, stop):
        asked.append(steps)
        if 20 in steps:
            raise ValueError("no such model\nand more")
        there.append(20)

    step = itertools.count().__next__
    with meanwhile(lambda: list(there), score, WorkersConfig(), step):
        until = time.monotonic() + 60
        while len(asked) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
    assert asked == [[10], [20]]
    assert "scoring beside the training stopped, it follows later: no such model\n" in said()


def test_scoring_that_does_not_end_holds_no_error_up(monkeypatch):
    monkeypatch.setattr(overlap, "GRACE", 0.5)
    monkeypatch.setattr(overlap, "PAUSE", 0.1)
    monkeypatch.setattr(overlap, "_room_beside", lambda step, workers, stop: True)
    begun, over = threading.Event(), threading.Event()

    def score(steps, stop):
        begun.set()
        over.wait(60)

    with (
        pytest.raises(ValueError, match="the training's"),
        meanwhile(lambda: [1], score, None, None),
    ):
        assert begun.wait(10)
        raise ValueError("the training's")
    assert not over.is_set()
    over.set()


def test_it_is_for_a_proxy_of_fixed_size():
    data = settings("run").model_dump()
    data["trajectories"]["while_training"] = True
    data["proxy"]["max_workers"] = 4
    with pytest.raises(ConfigError, match=r"leave out proxy\.max_workers"):
        validate(data)


def test_stopping_early_is_no_setting_any_more():
    data = settings("run").model_dump()
    data["trajectories"]["stop_when_stable"] = 0.9
    with pytest.raises(ConfigError, match=r"trajectories\.stop_when_stable: unknown"):
        validate(data)
