"""Running a stage's units: tasks and actors, resume, errors; and how progress is shown."""

import io
import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ray import cloudpickle

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import NodeFull
from s2l_ray.execution import parts as units_module
from s2l_ray.execution import progress
from s2l_ray.execution.parts import run_units
from s2l_ray.execution.progress import Progress
from s2l_ray.store import Store


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


def units(count=5):
    return [{"unit": f"step-{n % 2}/part-{n}", "n": n} for n in range(count)]


def run(store, work, log, *, todo=None, fail_at=None, **more):
    return run_units(
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


@pytest.mark.parametrize("workers", [None, WorkersConfig(num_workers=2)], ids=["task", "actor"])
def test_what_a_killed_process_had_in_hand_is_done_again(local_ray, tmp_path, square, workers):
    store = Store(tmp_path / "run")
    manifest = run(store, Deadly, tmp_path / "log", workers=workers)
    assert (tmp_path / "log" / "killed").exists()
    assert squares(store, manifest) == WANTED


def test_where_every_disk_is_full_the_node_is_named(local_ray, tmp_path, square, monkeypatch):
    monkeypatch.setattr(units_module, "FULL_PAUSE", 0.0)
    store = Store(tmp_path / "run")
    with pytest.raises(NodeFull, match=r"node \S+: .*No space left on device .* MiB free in /"):
        run(store, Full, tmp_path / "log")
    assert list(store.found("squares/f")) == ["step-0/part-0"]  # and this one is not lost


def test_units_as_tasks_and_as_actors(local_ray, tmp_path, square):
    made = {}
    for mode, workers in (("tasks", None), ("actors", WorkersConfig(num_workers=2))):
        store, log = Store(tmp_path / mode), tmp_path / f"{mode}-log"
        manifest = run(store, square, log, workers=workers, max_workers=3, info={"a": 1})
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
    manifest = run(store, square, log, workers=WorkersConfig())
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
        run(Store(tmp_path), square, tmp_path / "log", fail_at=3, workers=WorkersConfig())
    assert type(failure.value) is ValueError
    assert str(failure.value) == "unit step-1/part-3: n is 3, anything else is wanted"


def test_a_stage_without_units_is_finished(local_ray, tmp_path, square):
    manifest = run(Store(tmp_path), square, tmp_path / "log", todo=[])
    assert (manifest.parts, manifest.rows) == ([], 0)


def test_units_survive_json(local_ray, tmp_path, square):
    """A unit is JSON on its way: numpy numbers in it are refused, not changed."""
    with pytest.raises(TypeError, match="int64"):
        run(Store(tmp_path), square, tmp_path / "log", todo=[{"unit": "a", "n": np.int64(1)}])
    json.dumps(units())


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clocked(monkeypatch):
    """Time that passes when told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_progress_off_the_terminal_is_a_line_now_and_then(clocked, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with Progress("score", total=2000, unit="parts") as shown:
        shown.resume_at(1000)
        for _ in range(1000):
            clocked(0.125)
            shown.set(shown.done + 1, "loss 2.1")
    lines = out.getvalue().splitlines()
    assert len(lines) == 9  # 125 s: one each 15 s, and the last
    assert lines[0] == "[score] 1,120 of 2,000 parts, 8.0/s, 1 min 50 s left, loss 2.1"
    assert lines[-1] == "[score] 2,000 of 2,000 parts, 8.0/s, 2 min 05 s taken, loss 2.1"
    assert "\r" not in out.getvalue() and "\033" not in out.getvalue()


def test_progress_of_a_slow_stage_and_of_a_failed_one(clocked, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with pytest.raises(KeyError), Progress("slow", total=4, unit="parts") as shown:
        clocked(40)
        shown.advance(1)
        raise KeyError
    assert out.getvalue() == "[slow] 1 of 4 parts, 1.5/min, 2 min 00 s left\n"


def test_progress_on_a_terminal_is_one_live_line(clocked, monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    with Progress("score", total=3, unit="parts") as shown:
        for _ in range(3):
            clocked(1)
            shown.advance(1)
    assert out.getvalue().count("\n") == 1 and out.getvalue().endswith("3 s taken\n")
    assert len(re.findall("\r\033\\[K", out.getvalue())) == 4
