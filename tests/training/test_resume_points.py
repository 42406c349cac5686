"""Resume points of each engine, in processes with gloo: at the same size the same bits, at another
size the same training."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.training import config_of
from support.workers import run_workers, train_until

from s2l_ray.store import Store

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
    for name in names:
        train_until(uri, f"{name}/whole-{workers}", config(name, workers), 6, SAVES)
        train_until(uri, f"{name}/stopped-{workers}", config(name, workers), 4, SAVES)


def resumed(uri, workers, names, *folders):
    for name in names:
        for folder in folders:
            train_until(uri, f"{name}/{folder}", config(name, workers), 6, SAVES)


def check(uri, names):
    """Stop with 2 workers and go on with 2 and with 1; stop with 1 and go on with 1 and with 2."""
    run_workers(2, whole_and_stopped, uri, 2, names)
    run_workers(1, whole_and_stopped, uri, 1, names)
    for name in names:
        for workers, other in ((2, 1), (1, 2)):
            folder = Path(uri, name)
            shutil.copytree(folder / f"stopped-{workers}", folder / f"{workers}-to-{other}")
    run_workers(2, resumed, uri, 2, names, "stopped-2", "1-to-2")
    run_workers(1, resumed, uri, 1, names, "stopped-1", "2-to-1")
    for name in names:
        for workers, other in ((2, 1), (1, 2)):
            whole = weights(uri, name, f"whole-{workers}")
            same, resized = (
                weights(uri, name, folder)
                for folder in (f"stopped-{workers}", f"{workers}-to-{other}")
            )
            assert all(torch.equal(same[key], whole[key]) for key in whole), name
            atol = 0.01 if "bf16" in name else 1e-5
            for key in whole:
                torch.testing.assert_close(resized[key], whole[key], rtol=0, atol=atol, msg=name)


def weights(uri, name, folder):
    return load_file(Path(uri, name, folder, "checkpoint-000006", "model.safetensors"))


def test_a_training_goes_on_to_the_same_bits_and_at_another_size(tmp_path):
    check(str(tmp_path), ["ddp"])
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
    check(str(tmp_path), [name for name in ENGINES if name != "ddp"])
