"""What is a function of the step: learning rates, dropout seeds, checkpoints."""

from itertools import product

import numpy as np
import pytest
import torch
from support.training import BASE, config_of
from transformers import get_cosine_schedule_with_warmup

from s2l_ray.config import TrainingConfig
from s2l_ray.training.checkpoints import checkpoint_steps, num_steps
from s2l_ray.training.step import dropout_seed, learning_rate


def test_learning_rate_is_the_cosine_schedule():
    """Hugging Face's, except that its first update, at rate 0, is left out of the warm-up."""
    for steps, share in ((40, 0.1), (40, 0.0), (7, 0.5), (1, 0.03)):
        config = config_of(learning_rate=3e-4, warmup_share=share)
        warmup = int(np.ceil(steps * share))
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
        schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
        theirs = []
        for _ in range(steps + 1):
            theirs.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        ours = [learning_rate(config, step, steps) for step in range(steps)]
        np.testing.assert_allclose(ours[:warmup], theirs[1 : warmup + 1])
        np.testing.assert_allclose(ours[warmup:], theirs[warmup:steps])
        assert max(ours) == pytest.approx(3e-4)
        assert min(ours) > 0  # every step learns


def test_dropout_seeds_are_pinned_and_differ():
    """By seed, step and worker; a change of the derivation changes trainings with dropout."""
    assert dropout_seed(42, 0, 0) == 11465652750463011511
    assert dropout_seed(42, 1000, 3) == 1336381383001961137
    seeds = {dropout_seed(*key) for key in product((0, 1, 42), range(40), range(4))}
    assert len(seeds) == 3 * 40 * 4
    torch.manual_seed(max(seeds))  # takes all 64 bits
    assert max(seeds) > 2**63


def test_steps_and_checkpoints():
    def of(steps, **fields):
        plan = BASE | {"checkpoint_every": None, "max_steps": None} | fields
        return checkpoint_steps(TrainingConfig.model_validate(plan), steps)

    assert of(10, checkpoint_every=3) == [3, 6, 9, 10]
    assert of(9, checkpoint_every=3) == [3, 6, 9]
    assert of(2, checkpoint_every=3) == [2]
    assert of(12, num_checkpoints=4) == [3, 6, 9, 12]
    assert of(10, num_checkpoints=4)[-1] == 10
    assert of(3, num_checkpoints=8) == [1, 2, 3]  # no more than there are steps
    assert of(7) == [7]
    assert num_steps(config_of(max_steps=None, epochs=3), 45) == 17  # ceil(3 * 45 / 8)
    assert num_steps(config_of(max_steps=4), 45) == 4
