"""Map over parts: tasks and actors, restart, errors. Fold over parts: order, few at a time."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray import cloudpickle

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import NodeFull
from s2l_ray.execution import connect
from s2l_ray.execution import parts as parts_module
from s2l_ray.execution.parts import Actors, fold_parts, map_parts
from s2l_ray.execution.remote import TASKS_PER_CPU
from s2l_ray.store import Part, Store


class Square:
    """Work that leaves a trace of each process that was made ready and of each unit it did."""

    def __init__(self, log, fail_at=None):
        import os
        import uuid

        self.log, self.fail_at = Path(log), fail_at
        self.name = f"{os.getpid()}-{uuid.uuid4().hex}"
        self.log.mkdir(exist_ok=True, parents=True)
        (self.log / f"made-{self.name}").touch()

    def __call__(self, unit):
        if unit["n"] == self.fail_at:
            raise ValueError(f"unit {unit['unit']}: n is {unit['n']}, anything else is wanted")
        (self.log / f"did-{unit['n']}-{self.name}").touch()
        return pa.table({"square": [unit["n"] ** 2] * unit["n"]}), {"n": unit["n"]}


class Full(Square):
    """Work for which the disk has no room, once it has done unit 0."""

    def __call__(self, unit):
        if unit["n"]:
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"x")
        return super().__call__(unit)


class Deadly(Square):
    """Work that kills its process, the first time that it meets unit 3."""

    def __call__(self, unit):
        if unit["n"] == 3:
            try:
                (self.log / "killed").touch(exist_ok=False)
            except FileExistsError:
                return super().__call__(unit)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(unit)


@pytest.fixture
def square():
    """The class as a value: Ray's workers cannot import this file."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield Square
    cloudpickle.unregister_pickle_by_value(module)


def actors(num_workers=1, max_workers=None):
    return Actors(WorkersConfig(num_workers=num_workers), max_workers, setting="x.workers")


def units(count=5):
    return [{"unit": f"step-{n % 2}/part-{n}", "n": n} for n in range(count)]


def run(store, work, log, *, todo=None, fail_at=None, **more):
    return map_parts(
        store, units() if todo is None else todo, work, (str(log), fail_at),
        folder="squares/f", fingerprint="f", label="square", **more,
    )  # fmt: skip


def squares(store, manifest):
    return {
        part.unit: store.read_part(manifest.folder, part)["square"].to_pylist()
        for part in manifest.parts
    }


def traces(log, kind):
    return sorted(path.name for path in Path(log).glob(f"{kind}-*"))


WANTED = {f"step-{n % 2}/part-{n}": [n * n] * n for n in range(5)}  # the first has no rows


@pytest.mark.parametrize("pool", [None, actors(2)], ids=["task", "actor"])
def test_what_a_killed_process_had_in_hand_is_done_again(local_ray, tmp_path, square, pool):
    store = Store(tmp_path / "run")
    manifest = run(store, Deadly, tmp_path / "log", actors=pool)
    assert (tmp_path / "log" / "killed").exists()
    assert squares(store, manifest) == WANTED


def test_where_every_disk_is_full_the_node_is_named(local_ray, tmp_path, square, monkeypatch):
    monkeypatch.setattr(parts_module, "FULL_PAUSE", 0.0)
    store = Store(tmp_path / "run")
    with pytest.raises(NodeFull, match=r"node \S+: .*No space left on device .* MiB free in /"):
        run(store, Full, tmp_path / "log")
    assert list(store.found("squares/f")) == ["step-0/part-0"]  # and this one is not lost


def test_units_as_tasks_and_as_actors(local_ray, tmp_path, square):
    made = {}
    for mode, pool in (("tasks", None), ("actors", actors(2, 3))):
        store, log = Store(tmp_path / mode), tmp_path / f"{mode}-log"
        manifest = run(store, square, log, actors=pool, info={"a": 1})
        assert squares(store, manifest) == WANTED
        assert [part.unit for part in manifest.parts] == sorted(WANTED)
        assert {part.unit: part.stats for part in manifest.parts}["step-1/part-3"] == {"n": 3}
        assert (manifest.info, manifest.fingerprint) == ({"a": 1}, "f")
        assert len(traces(log, "did")) == 5
        made[mode] = len(traces(log, "made"))
    assert made["tasks"] == 5
    assert made["actors"] <= 3  # made ready once each, and the pool starts with work
    both = [Store(tmp_path / mode).manifest("squares/f") for mode in ("tasks", "actors")]
    assert both[0] == both[1]  # the same files


def test_whole_parts_of_an_unfinished_run_are_kept(local_ray, tmp_path, square, capfd):
    store, log = Store(tmp_path / "run"), tmp_path / "log"
    with pytest.raises(ValueError) as failure:
        run(store, square, log, todo=[*units()[:3], {"unit": "bad", "n": 99}], fail_at=99)
    # The error as it was: no remote trace, no advice of Ray's.
    assert type(failure.value) is ValueError
    assert str(failure.value) == "unit bad: n is 99, anything else is wanted"
    assert store.manifest("squares/f") is None
    run(store, square, log, todo=units()[:2])
    (Path(store.address("squares/f")) / "manifest.json").unlink()
    part = next(Path(store.address("squares/f/step-0")).glob("part-0-*"))
    part.write_bytes(part.read_bytes()[:-1])  # cut short
    for trace in log.iterdir():
        trace.unlink()
    capfd.readouterr()
    names = store.found("squares/f").values()
    had = sum(store.found_part("squares/f", name) is not None for name in names)
    assert had >= 1
    manifest = run(store, square, log, actors=actors())
    assert squares(store, manifest) == WANTED
    assert len(traces(log, "did")) == 5 - had
    assert any(name.startswith("did-0-") for name in traces(log, "did"))  # the damaged one
    assert "[square] 5 of 5 parts" in capfd.readouterr().err
    # Everything there, the manifest apart: nothing is done, the same is committed.
    (Path(store.address("squares/f")) / "manifest.json").unlink()
    assert run(store, square, tmp_path / "none") == manifest
    assert not (tmp_path / "none").exists()


def test_an_error_of_an_actor_arrives_as_it_was(local_ray, tmp_path, square):
    with pytest.raises(ValueError) as failure:
        run(Store(tmp_path), square, tmp_path / "log", fail_at=3, actors=actors())
    assert type(failure.value) is ValueError
    assert str(failure.value) == "unit step-1/part-3: n is 3, anything else is wanted"


def test_a_stage_without_units_is_finished(local_ray, tmp_path, square):
    manifest = run(Store(tmp_path), square, tmp_path / "log", todo=[])
    assert (manifest.parts, manifest.rows) == ([], 0)


def test_units_arrive_as_they_were(local_ray, tmp_path):
    """Objects and types too: a part of another stage, a numpy number."""
    store = Store(tmp_path)
    part = store.write_part(pa.table({"a": [1]}), "given/f", "part-0", stats={"n": [1, 2]})
    given = {"unit": "a", "part": part, "number": np.int64(3), "pair": (1, 2)}

    def make_work():
        def work(unit):
            assert unit["part"] == part and type(unit["part"]) is type(part)
            assert type(unit["number"]) is np.int64 and unit["pair"] == (1, 2)
            return pa.table({"a": [4]}), {"seen": True}

        return work

    made = map_parts(store, [given], make_work, folder="made/f", fingerprint="f", label="x")
    assert made.parts[0].stats == {"seen": True}


def touched(number, folder, seconds):
    """Leave a trace, take a while, give the number back."""
    (Path(folder) / f"begun-{number}").touch()
    time.sleep(seconds if number == 0 else 0)
    return number


def test_results_come_in_part_order_and_few_wait_on_the_driver(local_ray, tmp_path):
    total, most = 60, TASKS_PER_CPU * int(ray.cluster_resources()["CPU"])
    results = fold_parts(touched, range(total), tmp_path, 2.0)
    assert traces(tmp_path, "begun") == []  # nothing runs before it is asked for
    seen = []
    for result in results:  # the first is the last to be ready
        seen.append(result)
        assert len(traces(tmp_path, "begun")) < len(seen) + most
    assert seen == list(range(total))


def test_a_fold_keeps_to_the_workers_it_is_given(local_ray, tmp_path):
    results = fold_parts(touched, range(9), tmp_path, 0.0, workers=WorkersConfig(num_workers=2))
    assert next(results) == 0
    time.sleep(1)
    assert len(traces(tmp_path, "begun")) == 2
    assert list(results) == list(range(1, 9))


def test_a_fold_over_nothing(local_ray, tmp_path, capfd):
    assert list(fold_parts(touched, [], tmp_path, 0.0)) == []
    assert list(fold_parts(touched, range(3), tmp_path, 0.0, label="look")) == [0, 1, 2]
    assert "[look] 3 of 3 parts" in capfd.readouterr().err


def test_the_setting_that_asks_for_too_much_is_named(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(connect, "_started", [ray.get_runtime_context().get_node_id()])
    large = Actors(WorkersConfig(cpus_per_worker=99), None, setting="my.setting")
    with pytest.raises(ValueError, match=r"^my\.setting: needs room for 1"):
        run(Store(tmp_path), Square, tmp_path / "log", actors=large)


def unit_of(item, suffix):
    part = item if isinstance(item, Part) else item[0]
    return (part if isinstance(part, Part) else part[1]).unit + suffix


def test_the_driver_reads_small_parts_by_itself(monkeypatch, capfd):
    """Without Ray: a run that finds all that it wants needs none."""
    small = [Part(f"part-{n}", "f", 1, 1000, "c") for n in range(3)]
    monkeypatch.setattr(parts_module, "connect", lambda: pytest.fail("Ray is not needed"))
    assert list(fold_parts(unit_of, small, "!", label="look")) == ["part-0!", "part-1!", "part-2!"]
    assert "[look] 3 of 3 parts" in capfd.readouterr().err
    pairs = [(("one", part), ("other", part)) for part in small]
    for items in (pairs, [(part, np.arange(3)) for part in small]):
        assert list(fold_parts(unit_of, items, "")) == ["part-0", "part-1", "part-2"]


class Wanted(Exception):
    """Ray is wanted."""


@pytest.mark.parametrize(
    "items",
    [
        [Part(f"part-{n}", "f", 1, parts_module.IN_DRIVER // 2, "c") for n in range(3)],
        [(("one", Part("p", "f", 1, 1, "c")), ("other", Part("p", "f", 1, 2**30, "c")))],
        ["a file of unknown size"],
    ],
    ids=["many", "pair", "unknown"],
)
def test_large_parts_and_files_of_users_go_to_tasks(monkeypatch, items):
    def connect():
        raise Wanted

    monkeypatch.setattr(parts_module, "connect", connect)
    with pytest.raises(Wanted):
        next(fold_parts(unit_of, items, ""))
