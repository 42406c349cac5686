"""Resume points of each engine, in processes with gloo: at the same size the same bits, at another
size the same training."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.training import config_of
from support.workers import run_workers, train_until

from s2l_ray.store import Store
from s2l_ray.training.engines import rank_and_world

SAVES = {2: False, 3: True, 4: False, 6: True}
ENGINES = {
    "ddp": {},
    "zero0": {"zero_stage": 0},
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero3-bf16": {
        "zero_stage": 3,
        "model": config_of().model.model_dump() | {"dtype": "bfloat16"},
    },
}


def config(name, workers):
    how = ENGINES[name] | {"workers": {"num_workers": workers}}
    return config_of(**how)


def whole_and_stopped(uri, workers, names):
    """Train to the end, and to step 4; of the latter a copy goes on at another size."""
    other = {1: 2, 2: 1}[workers]
    for name in names:
        train_until(uri, f"{name}/whole-{workers}", config(name, workers), 6, SAVES)
        train_until(uri, f"{name}/stopped-{workers}", config(name, workers), 4, SAVES)
        if rank_and_world()[0] == 0:
            folder = Path(uri, name)
            shutil.copytree(folder / f"stopped-{workers}", folder / f"{workers}-to-{other}")


def go_on(uri, workers, names, *folders):
    for name in names:
        for folder in folders:
            train_until(uri, f"{name}/{folder}", config(name, workers), 6, SAVES)


def two_workers(uri, names):
    whole_and_stopped(uri, 2, names)
    dist.barrier()
    go_on(uri, 2, names, "stopped-2", "1-to-2")


def check(uri, names, alone):
    """Stop with 2 workers and go on with 2 and with 1; stop with 1 and go on with 1 and with 2.

    alone: calls a function as one worker."""
    alone(whole_and_stopped, uri, 1, names)
    run_workers(2, two_workers, uri, names)
    alone(go_on, uri, 1, names, "stopped-1", "2-to-1")
    for name in names:
        for workers, other in ((2, 1), (1, 2)):
            whole = weights(uri, name, f"whole-{workers}")
            same = weights(uri, name, f"stopped-{workers}")
            resized = weights(uri, name, f"{workers}-to-{other}")
            assert all(torch.equal(same[key], whole[key]) for key in whole), name
            atol = 0.01 if "bf16" in name else 1e-5
            for key in whole:
                torch.testing.assert_close(resized[key], whole[key], rtol=0, atol=atol, msg=name)


def weights(uri, name, folder):
    return load_file(Path(uri, name, folder, "checkpoint-000006", "model.safetensors"))


def test_a_training_goes_on_to_the_same_bits_and_at_another_size(tmp_path):
    check(str(tmp_path), ["ddp"], lambda function, *args: function(*args))
    # Of the two newest, the first has a file of each worker; after the last step none is needed.
    store, folder = Store(tmp_path), "ddp/stopped-2/resume"
    assert store.names(folder) == ["step-000004", "step-000006"]
    files = [
        [part.file for part in store.manifest(f"{folder}/{name}").parts]
        for name in store.names(folder)
    ]
    assert files == [["optimizer-00000.safetensors", "optimizer-00001.safetensors"], []]


@pytest.mark.slow
def test_every_engine_goes_on_to_the_same_bits_and_at_another_size(tmp_path):
    others = [name for name in ENGINES if name != "ddp"]
    check(str(tmp_path), others, partial(run_workers, 1))
