"""Errors of remote code: a user's arrive as they were raised, a bug keeps its trace."""

import io
import logging

import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.train
from ray.exceptions import OutOfDiskError, RayTaskError

from s2l_ray.errors import (
    ConfigError,
    Damaged,
    LeaseLost,
    NodeFull,
    ObjectStoreFull,
    StorageError,
    TooFew,
)
from s2l_ray.execution.actors import ActorPool
from s2l_ray.execution.parts import fold_parts, map_parts
from s2l_ray.execution.remote import fixable, get, plain_errors, rows_of
from s2l_ray.store import Store

ERRORS = [
    ValueError("a: found 1, expected 2\nFailed to see why"),
    ConfigError("a.b: expected a number"),
    Damaged("x/part-0.arrow: damaged", "losses/f"),
    LeaseLost("taken over by another"),
    NodeFull("node a: no space left", "0123"),
    StorageError("s3://b: refused"),
    TooFew("only 3"),
]
BUGS = [ZeroDivisionError("one by zero"), pa.ArrowInvalid("cut short"), OSError(5, "broken")]


def fail(part, error):
    """Raise it for the second part."""
    if part == 1:
        raise error
    return part


class Failing:
    def __init__(self, error):
        self.error = error

    def __call__(self, unit):
        raise self.error


@ray.remote(num_cpus=1)
class FailingActor:
    def run(self, chunks, method, error):
        raise error


def in_a_task(error, tmp_path):
    return list(fold_parts(fail, range(3), error))


def in_a_task_before(error, tmp_path):
    task = ray.remote(fail)
    return get([task.remote(task.remote(1, error), None)])


def in_a_method(error, tmp_path):
    with ActorPool(FailingActor, [1], 1) as pool:
        return pool.each_chunk("any", error)


def in_ray_data(error, tmp_path):
    dataset = ray.data.range(2).map_batches(lambda batch: fail(1, error))
    return list(rows_of(dataset))


def in_a_part(error, tmp_path):
    store, units = Store(tmp_path), [{"unit": "a"}]
    return map_parts(store, units, Failing, (error,), folder="x/f", fingerprint="f", label="x")


def test_a_full_disk_under_ray_s_object_store_is_named():
    """As Ray raises it from a task, and by itself. (tests/faults/test_spilling.py fills one.)"""
    text = "ray::big() (pid=9961, ip=192.0.2.7)\nray.exceptions.OutOfDiskError: Local disk is full"
    error = RayTaskError("big", text, OutOfDiskError("Local disk is full"))
    found = fixable(error.as_instanceof_cause())
    assert type(found) is ObjectStoreFull and str(found).startswith("node 192.0.2.7: Ray's object")
    assert "--object-spilling-directory" in str(found)
    assert str(fixable(OutOfDiskError("full"))).startswith("a node: Ray's object store is full")


@pytest.fixture
def terminal(monkeypatch):
    """What Ray's loggers print on the terminal: they keep the stderr that they were made with."""
    shown = io.StringIO()
    handlers = [each for name in ("ray", "ray.data") for each in logging.getLogger(name).handlers]
    printing = [each for each in handlers if type(each).__module__.startswith("ray.")]
    printing = [each for each in printing if isinstance(each, logging.StreamHandler)]
    assert len(printing) == 2
    for each in printing:
        monkeypatch.setattr(each, "stream", shown)
    return shown


WAYS = [in_a_task, in_a_task_before, in_a_method, in_ray_data, in_a_part]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_that_a_user_can_fix_arrives_as_it_was(local_ray, tmp_path, terminal, way, error):
    if way is in_a_part and isinstance(error, NodeFull):
        pytest.skip("its parts go to other nodes: test_parts.py")
    with pytest.raises(type(error)) as caught:
        way(error, tmp_path)
    assert terminal.getvalue() == ""
    found = caught.value
    assert type(found) is type(error)
    assert (str(found), found.args) == (str(error), error.args)
    assert vars(found) == vars(error)  # folder, node
    assert found.__cause__ is None and found.__suppress_context__


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_a_bug_keeps_its_trace(local_ray, tmp_path, way, error):
    with pytest.raises(type(error)) as caught:
        way(error, tmp_path)
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    text = str(caught.value)
    assert "pid=" in text and __file__ in text and str(error) in text


def read_rows(part, store, folder):
    return store.read_part(folder, part).num_rows


def test_a_damaged_part_met_in_a_fold_names_its_folder(local_ray, tmp_path):
    store = Store(tmp_path)
    table = pa.table({"a": np.arange(10)})
    parts = [store.write_part(table, "losses/f", f"part-{n}") for n in range(3)]
    assert sum(fold_parts(read_rows, parts, store, "losses/f")) == 30
    path = tmp_path / "losses/f" / parts[1].file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match=f"{path}: damaged") as caught:
        sum(fold_parts(read_rows, parts, store, "losses/f"))
    assert caught.value.folder == "losses/f"
    assert "\n" not in str(caught.value)


def test_a_full_disk_in_a_fold_names_the_node(local_ray):
    with pytest.raises(NodeFull, match="No space left") as caught:
        list(fold_parts(fail, [1], OSError(28, "No space left on device")))
    assert caught.value.node == ray.get_runtime_context().get_node_id()


def test_of_several_train_workers_the_first_by_rank_is_told():
    failures = {2: ValueError("of rank 2"), 0: RuntimeError("a bug"), 1: Damaged("x", "proxy/f")}
    found = fixable(ray.train.WorkerGroupError("all of them", failures))
    assert type(found) is Damaged and found.folder == "proxy/f"
    assert fixable(ray.train.WorkerGroupError("a bug", {0: RuntimeError("a bug")})) is None


def test_what_the_driver_raises_itself_is_left_alone():
    error = KeyError("x")
    error.__cause__ = ValueError("inside")
    with pytest.raises(KeyError) as caught, plain_errors():
        raise error
    assert caught.value is error
    assert fixable(error) is None
