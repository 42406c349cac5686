"""Actors that stay: they are started once, can be let go, and leave whole parts behind."""

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import torch

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import GPUFailed, LimitReached, NodeFull
from s2l_ray.execution import deadline, lasting
from s2l_ray.execution.lasting import LastingActors
from s2l_ray.execution.parts import Actors, StageParts


class Marked:
    """Work that tells its process in the stats, and takes the unit's seconds or its accident."""

    def __init__(self, log):
        self.log = Path(log)

    def begun(self, unit):
        return [*self.log.glob(f"begun-{unit['unit']}-*")]

    def __call__(self, unit):
        (self.log / f"begun-{unit['unit']}-{os.getpid()}").touch()
        if unit.get("error") and len(self.begun(unit)) <= unit.get("times", 99):
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


def work_until_begun(actors, tmp_path, unit):
    until = time.monotonic() + 60
    while not begun(tmp_path, unit):
        actors.work(0.1)
        assert time.monotonic() < until


def check_all_is_free():
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.slow
def test_a_limit_lets_the_parts_that_are_being_made_end(local_ray, store, tmp_path):
    units = [stage("a"), stage("b", "c", "d", seconds=1.5)]  # longer than all_made looks
    with (
        pytest.raises(LimitReached, match="enough"),
        lasting_actors(store, tmp_path, num_workers=2) as actors,
    ):
        actors.add(units)
        parts = actors.all_made()
        with deadline.within(60, "enough"):
            assert next(parts)[0] == "made/f"
        with deadline.within(0.0, "enough"):
            list(parts)
    assert {"a", "b"} <= made(store).keys() < {"a", "b", "c", "d"}
    check_all_is_free()


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_was_under_way_is_made_by_the_next_actors(local_ray, store, tmp_path):
    with lasting_actors(store, tmp_path) as actors:
        actors.add([stage("a", "b", seconds=2)])
        actors.start()
        work_until_begun(actors, tmp_path, "a")
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
        work_until_begun(actors, tmp_path, "a")
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


@pytest.mark.slow
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


def failing_gpu(store, tmp_path, error, times):
    """Make three parts; the first meets the error so many times."""
    with lasting_actors(store, tmp_path) as actors:
        actors.add([stage("a", error=error, times=times), stage("b", "c")])
        return [part.unit for _, part in actors.all_made()]


ECC = "CUDA error: uncorrectable ECC error encountered"


def test_a_failing_gpu_costs_its_actor_and_not_the_run(local_ray, store, tmp_path, said):
    error = torch.AcceleratorError(f"{ECC}\nCUDA kernel errors might be reported later")
    assert failing_gpu(store, tmp_path, error, times=2) == ["a", "b", "c"]
    assert begun(tmp_path, "a") == 3  # by three processes, the names say
    assert made(store).keys() == {"a", "b", "c"}
    told = [line for line in said().splitlines() if ECC in line]
    assert len(told) == 2 and all("another actor makes its part" in line for line in told)


@pytest.mark.slow
def test_a_gpu_that_fails_again_and_again_ends_the_run_if_no_other_node_has_room(
    local_ray, store, tmp_path
):
    with pytest.raises(GPUFailed, match=r"^node \S+: GPU .*: CUDA error: uncorrect.* `nvidia-smi"):
        failing_gpu(store, tmp_path, torch.AcceleratorError(ECC), times=99)
    assert begun(tmp_path, "a") == lasting.MAX_GPU_FAILURES
    check_all_is_free()


def test_gpu_memory_that_runs_out_is_no_failing_gpu(local_ray, store, tmp_path):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 2 GiB") as caught:
        failing_gpu(store, tmp_path, error, times=99)
    assert not isinstance(caught.value, GPUFailed)
    assert begun(tmp_path, "a") == 1


@pytest.mark.slow
def test_the_pool_makes_all_parts_with_as_many_actors_as_there_is_room_for(
    local_ray, store, tmp_path
):
    """And stops those that are without work before the last part is made."""
    with lasting_actors(store, tmp_path, num_workers=99) as actors:
        actors.add([stage(*"abcdefgh", seconds=1), stage("slow", seconds=6)])
        parts = [part.unit for _, part in actors.all_made()]
        assert len(actors.idle) == 1 and not actors.starting  # the one that made the last part
    assert sorted(parts) == [*"abcdefgh", "slow"]
    found = made(store)
    assert found.keys() == {*"abcdefgh", "slow"}
    assert len({stats["pid"] for stats in found.values()}) == ray.cluster_resources()["CPU"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("a: not finite"), ValueError, "^a: not finite$"),
        (OSError(28, "No space left"), NodeFull, r"No space left .* MiB free"),
    ],
)
def test_an_error_arrives_as_it_was(local_ray, store, tmp_path, error, kind, message):
    with lasting_actors(store, tmp_path) as actors:
        actors.add([stage("a", error=error)])
        actors.start()
        with pytest.raises(kind, match=message) as caught:
            actors.work(60)
    assert type(caught.value) is kind
    check_all_is_free()
