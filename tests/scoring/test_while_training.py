"""Scoring beside the training: the same losses, made earlier; nothing where there is no room."""

import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pyarrow as pa
import pytest
import ray
from support.runs import corpus, settings

import s2l_ray
from s2l_ray.config import TrajectoriesConfig, WorkersConfig, validate
from s2l_ray.errors import ConfigError
from s2l_ray.execution.lasting import LastingActors
from s2l_ray.execution.parts import StageParts
from s2l_ray.scoring import while_training
from s2l_ray.scoring.while_training import free_places, score_while_training
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
    beside, _ = runs
    proxy = files(beside, "proxy")
    [end] = [
        at for name, at in proxy.items() if name.endswith("manifest.json") and "resume" not in name
    ]
    losses = files(beside, "losses")
    early = [name for name, at in losses.items() if name.endswith(".arrow") and at < end]
    assert len(early) >= 3  # one checkpoint at least
    # The first checkpoint's losses come of the pass that makes its details, and of no other.
    details = files(beside, "details/early")
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


def make_numbers(store, config):
    """In place of the scorer: parts that are a number, or fail."""

    def work(unit):
        if unit["number"] == 20:
            raise ValueError("no such model\nand more")
        time.sleep(unit["number"] / 10)
        return pa.table({"number": [unit["number"]]}), {"pid": os.getpid()}

    return work


class Numbers(NamedTuple):
    """In place of a Scoring: one part, named like the step."""

    step: int

    def stage(self):
        return StageParts("made/f", "f", [{"unit": str(self.step), "number": self.step}], {})


@pytest.fixture
def beside(store, monkeypatch):
    """Scores numbers beside a training whose step goes on by itself, or stands still if told to."""
    monkeypatch.setattr(while_training, "make_scorer", make_numbers)
    monkeypatch.setattr(while_training, "PAUSE", 0.2)
    training = SimpleNamespace(steps=[], asked=[], reached=0, stands=False)

    def step():
        training.reached += not training.stands
        return training.reached

    def scorings(steps):
        training.asked.append(steps)
        return [Numbers(step) for step in steps]

    def start(**workers):
        return score_while_training(
            store,
            TrajectoriesConfig(workers=workers),
            checkpoints=lambda: list(training.steps),
            scorings=scorings,
            step=step,
        )

    training.start = start
    training.made = lambda: {
        int(unit): store.found_part("made/f", name).stats["pid"]
        for unit, name in store.found("made/f").items()
    }
    return training


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_without_room_nothing_starts(local_ray, beside, monkeypatch):
    started = []
    monkeypatch.setattr(LastingActors, "start", started.append)
    beside.steps = [1]
    with beside.start(cpus_per_worker=10_000):
        wait_for(lambda: beside.asked)
        time.sleep(2)
    assert started == []


def test_new_checkpoints_are_scored_once_and_by_one_actor(local_ray, beside):
    beside.steps = [1]
    with beside.start():
        wait_for(lambda: beside.made().keys() == {1})
        beside.steps = [1, 2, 3]
        wait_for(lambda: beside.made().keys() == {1, 2, 3})
    assert beside.asked == [[1], [2, 3]]
    assert len(set(beside.made().values())) == 1


def test_an_error_ends_the_scoring_and_not_the_training(local_ray, beside, said):
    beside.steps, lines = [20], []
    with beside.start():
        wait_for(lambda: lines.append(said()) or "stopped" in "".join(lines))
        beside.steps = [20, 1]
        time.sleep(1)
    assert beside.asked == [[20]]
    text = "".join(lines)
    assert "scoring stopped and will follow the training: no such model\n" in text


@pytest.mark.slow
def test_a_training_that_waits_for_a_place_gets_it(local_ray, beside):
    """As after a worker's death: Ray Train asks for places with a placement group."""
    cpus = ray.cluster_resources()["CPU"]
    beside.steps = [30]  # takes three seconds
    with beside.start(cpus_per_worker=cpus):
        wait_for(lambda: ray.available_resources().get("CPU", 0) == 0)
        beside.stands = True
        group = ray.util.placement_group([{"CPU": 1}])
        assert group.wait(10)
        assert beside.made() == {}
        time.sleep(4)  # the training stands still, and its group is all there is room for
        assert beside.made() == {}
        ray.util.remove_placement_group(group)
        beside.stands = False
        wait_for(lambda: beside.made().keys() == {30})


@pytest.mark.slow
def test_a_place_is_left_to_a_training_that_stands_still(local_ray):
    """As where a worker has died, and its place is to be its successor's."""
    reached, seen = 7, []

    def step():
        seen.append(reached)
        return reached

    places = free_places(WorkersConfig(), step)

    def look():
        time.sleep(0.05)
        return next(places)

    for _ in range(100):
        assert not look()
    assert len(seen) > 5  # there was a place: it waits for a step
    whole = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    assert whole.wait(30)  # nothing is held meanwhile
    reached = 8
    for _ in range(10):
        assert not look()  # a step was taken, but the place is gone
    ray.util.remove_placement_group(whole)

    def found():
        nonlocal reached
        reached += 1
        return look()

    wait_for(found)
    places.close()


@pytest.mark.slow
def test_actors_without_work_are_let_go(local_ray, beside, monkeypatch):
    monkeypatch.setattr(while_training, "IDLE", 1.0)
    cpus = ray.cluster_resources()["CPU"]
    beside.steps = [1]
    with beside.start(cpus_per_worker=cpus):
        wait_for(lambda: beside.made().keys() == {1})
        wait_for(lambda: ray.available_resources().get("CPU", 0) == cpus)
        beside.steps = [1, 2]
        wait_for(lambda: beside.made().keys() == {1, 2})
    assert len(set(beside.made().values())) == 2


def test_scoring_that_does_not_end_holds_no_error_up(beside, monkeypatch):
    monkeypatch.setattr(while_training, "GRACE", 0.5)
    begun, over = threading.Event(), threading.Event()

    def work(*_):
        begun.set()
        over.wait(60)

    monkeypatch.setattr(while_training, "_work", work)
    with pytest.raises(ValueError, match="the training's"), beside.start():
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
