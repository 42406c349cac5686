"""Actors that stay: they are started once, can be let go, and leave whole parts behind."""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import NodeFull
from s2l_ray.execution import lasting, parts
from s2l_ray.execution.lasting import LastingActors
from s2l_ray.execution.parts import Actors, StageParts


class Marked:
    """Work that tells its process in the stats, and takes the unit's seconds or its accident."""

    def __init__(self, log):
        self.log = Path(log)

    def __call__(self, unit):
        (self.log / f"begun-{unit['unit']}-{os.getpid()}").touch()
        if unit.get("error"):
            raise unit["error"]
        if unit.get("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(unit.get("seconds", 0))
        return pa.table({"a": [1]}), {"pid": os.getpid()}


def stage(*names, **more):
    return StageParts("made/f", "f", [{"unit": name} | more for name in names], {})


def lasting_actors(store, tmp_path, num_workers=1, max_workers=None):
    actors = Actors(WorkersConfig(num_workers=num_workers), max_workers, setting="x.workers")
    return LastingActors(store, Marked, (str(tmp_path),), label="x", actors=actors)


def made(store):
    """unit -> stats of the parts that lie there."""
    found = store.found("made/f")
    return {unit: store.found_part("made/f", name).stats for unit, name in found.items()}


def begun(tmp_path, unit):
    return len(list(tmp_path.glob(f"begun-{unit}-*")))


def check_all_is_free():
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_actors_stay_when_there_is_nothing_to_do(local_ray, store, tmp_path, capfd):
    with lasting_actors(store, tmp_path) as actors:
        assert not actors.wants_more and actors.idle_seconds == 0
        actors.add([stage("a", "b")])
        assert actors.wants_more
        actors.start()
        assert not actors.wants_more  # one is all there may be
        actors.work(60)
        time.sleep(0.2)
        assert actors.idle_seconds > 0.1
        actors.add([stage("c")])
        actors.work(60)
    found = made(store)
    assert found.keys() == {"a", "b", "c"}
    assert len({stats["pid"] for stats in found.values()}) == 1
    assert "[x] 3 of 3 parts" in capfd.readouterr().err


def test_no_more_actors_than_there_is_work_for_or_than_are_allowed(local_ray, store, tmp_path):
    with lasting_actors(store, tmp_path, num_workers=1, max_workers=2) as actors:
        actors.add([stage("a", "b", "c", seconds=1)])
        for _ in range(2):
            assert actors.wants_more
            actors.start()
        assert not actors.wants_more
        actors.work(60)
        actors.stop_all()
        actors.add([stage("d")])
        actors.start()
        assert not actors.wants_more
    assert len({stats["pid"] for stats in made(store).values()}) == 2


def test_what_was_under_way_is_made_by_the_next_actors(local_ray, store, tmp_path):
    with lasting_actors(store, tmp_path) as actors:
        actors.add([stage("a", "b", seconds=2)])
        actors.start()
        until = time.monotonic() + 60
        while not begun(tmp_path, "a"):
            actors.work(0.1)
            assert time.monotonic() < until
        actors.stop_all()
        assert made(store) == {} and actors.wants_more
        actors.work(0.1)  # without actors nothing happens
        actors.start()
        actors.work(60)
        assert made(store).keys() == {"a", "b"}
        assert (begun(tmp_path, "a"), begun(tmp_path, "b")) == (2, 1)


def test_the_end_waits_for_what_is_under_way_and_begins_no_more(local_ray, store, tmp_path):
    with lasting_actors(store, tmp_path) as actors:
        actors.add([stage("a", "b", seconds=1)])
        actors.start()
        actors.work(0.1)
        actors.finish(60)
    assert made(store).keys() == {"a"}
    assert begun(tmp_path, "b") == 0
    check_all_is_free()


def test_whole_parts_are_kept(local_ray, store, tmp_path):
    for _ in range(2):
        with lasting_actors(store, tmp_path) as actors:
            actors.add([stage("a")])
            actors.start()
            actors.work(60)
    assert begun(tmp_path, "a") == 1


def test_a_dead_actor_is_replaced_but_not_for_ever(local_ray, store, tmp_path, monkeypatch):
    monkeypatch.setattr(lasting, "MAX_DEATHS", 3)
    with lasting_actors(store, tmp_path) as actors:
        actors.add([stage("a", deadly=True)])
        for _ in range(2):
            assert actors.wants_more
            actors.start()
            actors.work(60)
        actors.start()
        with pytest.raises(ray.exceptions.RayActorError):
            actors.work(60)
    assert begun(tmp_path, "a") == 3


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("a: not finite"), ValueError, "^a: not finite$"),
        (OSError(28, "No space left"), NodeFull, r"No space left .* MiB free"),
    ],
)
def test_an_error_arrives_as_it_was(local_ray, store, tmp_path, monkeypatch, error, kind, message):
    monkeypatch.setattr(parts, "FULL_PAUSE", 0.0)
    with lasting_actors(store, tmp_path) as actors:
        actors.add([stage("a", error=error)])
        actors.start()
        with pytest.raises(kind, match=message) as caught:
            actors.work(60)
    assert type(caught.value) is kind
    check_all_is_free()
