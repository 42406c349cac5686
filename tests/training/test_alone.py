"""Trainings of one worker on a Ray of this process's own: in a task, without Ray Train's actors."""

import pytest
import ray
import torch
from support.training import config_of

from s2l_ray.training import alone, train

ONE = {"workers": {"num_workers": 1}, "micro_batch_size": 4}


@pytest.fixture
def in_a_task(monkeypatch):
    """As on a Ray that the process started; returns the trainings that a task did."""
    monkeypatch.setattr(alone, "own_ray", lambda: True)
    run, done = alone.run_alone, []
    monkeypatch.setattr(train, "run_alone", lambda *given: (done.append(1), run(*given)))
    return done


@pytest.mark.slow
def test_the_same_bits_as_under_ray_train_also_after_a_death(job, in_a_task, monkeypatch, said):
    with monkeypatch.context() as usual:
        usual.setattr(alone, "own_ray", lambda: False)
        expected = job.run("under_ray_train", config_of(**ONE))
    assert in_a_task == []
    made = job.run("in_a_task", config_of(**ONE, max_failures=1), ("step-000003",))
    assert len(in_a_task) == 2 and "training continues from step 2" in said()
    assert job.notes("in_a_task") == ["from step-000002", "kill step-000003"]
    assert made.info["history"] == expected.info["history"]
    weights, others = job.weights("in_a_task"), job.weights("under_ray_train")
    assert all(torch.equal(weights[name], others[name]) for name in others)
    with pytest.raises(ray.train.WorkerGroupError):
        job.run("dies", config_of(**ONE), ("step-000003",))


@pytest.mark.slow
def test_an_error_is_the_loops_own(job, in_a_task):
    config = config_of(**ONE, learning_rate=1e18, warmup_share=0)
    with pytest.raises(ValueError, match=r"^diverges_alone: the training loss is .* at step 2"):
        job.run("diverges_alone", config)
    assert in_a_task


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": {"num_workers": 2}},
        {"max_workers": 2},
        {"zero_stage": 2},
        {"workers": {"num_workers": 1, "gpus_per_worker": 1}},
    ],
)
def test_other_trainings_are_ray_trains(in_a_task, changes):
    config = config_of(**ONE | changes)
    assert alone.is_alone(config_of(**ONE), 1)
    assert not alone.is_alone(config, config.workers.num_workers)


def test_a_ray_that_others_share_has_ray_train(local_ray):
    assert not alone.is_alone(config_of(**ONE), 1)
