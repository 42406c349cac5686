"""GPU-hours: what counts, and where their limit stops a run."""

import time

import pytest
from support.runs import plan_of, settings

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import LimitReached
from s2l_ray.execution import deadline
from s2l_ray.pipeline.record import RunRecord, read_record
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.spending import Spending
from s2l_ray.pipeline.stage import Stage, Work, alone

GPUS = Work("scoring", WorkersConfig(num_workers=3, gpus_per_worker=2), max_workers=4)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.setattr("s2l_ray.execution.machine.hardware", dict)


def test_workers_reserve_their_gpus_for_as_long_as_a_stage_is_made(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    spending = Spending(limit=8.0, hours=1.0)
    with spending.of(GPUS):  # a pool of up to 4 actors with 2 GPUs each
        assert deadline.seconds_left() == 7 * 3600 / 8
        now[0] += 450
        deadline.check()
    assert spending.hours == 1 + 8 * 450 / 3600 == 2
    assert deadline.seconds_left() is None
    with spending.of(GPUS, at_once=2):  # each of two side by side has its share
        assert deadline.seconds_left() == 6 * 3600 / 8 / 2
    beside = Work("training", WorkersConfig(num_workers=2, gpus_per_worker=1), beside=GPUS)
    with spending.of(beside):  # 2 GPUs train, 8 score meanwhile
        assert deadline.seconds_left() == 6 * 3600 / 10
    with spending.of(Work()), spending.of(Work("training", WorkersConfig())):
        assert deadline.seconds_left() is None  # no GPU
        now[0] += 9999
    assert spending.hours == 2
    with pytest.raises(LimitReached, match="max_gpu_hours: the 8 GPU-hours"), spending.of(GPUS):
        now[0] += 6 * 450
        deadline.check()
    assert spending.hours == 8
    with pytest.raises(LimitReached, match="run the same command again"), spending.of(GPUS):
        pytest.fail("begun")


def test_scoring_beside_a_training_counts():
    workers = {"gpus_per_worker": 1}
    for asked, gpus in ((False, 2), (True, 5)):
        plan = plan_of(
            settings(
                "run",
                proxy__workers=workers | {"num_workers": 2},
                proxy__micro_batch_size=16,
                trajectories__workers=workers | {"num_workers": 3},
                trajectories__while_training=asked,
            )
        )
        assert plan.proxy.work.gpus == gpus


def test_without_a_limit_hours_are_counted_all_the_same(monkeypatch):
    monkeypatch.setattr("time.monotonic", iter([0.0, 450.0]).__next__)
    spending = Spending()
    with spending.of(GPUS):
        deadline.check()
    assert spending.hours == 1


def test_a_run_stops_before_the_next_stage_with_gpus_and_goes_on_with_a_higher_limit(store):
    def make(run, **where):
        time.sleep(0.02)
        return run.store.commit(*where.values(), [], {})

    def stage(name, work=GPUS):
        return Stage(name, alone(make), work=work)

    def run_with(limit):
        record = RunRecord(store, "select")
        spending = Spending(limit, record.before.get("gpu_hours", 0.0))
        told = {"gpus"}  # so that nobody looks for them
        return Run(settings("run"), store, None, spending=spending, record=record, told=told)

    run = run_with(1e-6)
    run.get(stage("proxy"))
    run.get(stage("clusters", Work()))  # takes no GPU
    with pytest.raises(LimitReached):
        run.get(stage("losses"))
    assert store.manifest(stage("losses").folder) is None
    spent = read_record(store)["gpu_hours"]
    assert spent >= 8 * 0.02 / 3600
    with pytest.raises(LimitReached):  # the hours of earlier commands count
        run_with(1e-6).get(stage("losses"))
    later = run_with(1.0)
    later.get(stage("losses"))
    assert later.times[0]["reused"] is False and read_record(store)["gpu_hours"] > spent
