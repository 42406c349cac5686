"""The model that an actor holds: loaded once, one at a time, known by its files."""

import gc
import weakref

import pytest
import torch
from support.models import random_tokens, small_model

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import Damaged
from s2l_ray.models import held
from s2l_ray.models.batch import examples_of, pad
from s2l_ray.models.held import HeldModel
from s2l_ray.store.checksums import checksum_of_folder


@pytest.fixture
def folders(store):
    """Two checkpoints of a run, by step."""
    found = {step: f"proxy/checkpoint-{step:06d}" for step in (1, 2)}
    for step, folder in found.items():
        small_model("gpt_neox", seed=step).save_pretrained(store.address(folder))
    return found


@pytest.fixture
def loads(monkeypatch):
    """The folders that models were loaded from."""
    seen, load = [], held.load_model
    monkeypatch.setattr(
        held, "load_model", lambda local, **how: seen.append(local) or load(local, **how)
    )
    return seen


def test_the_last_model_is_kept_and_told_by_its_files(store, folders, loads):
    model = HeldModel(store, WorkersConfig())
    assert model.checksum == ""
    batch = pad(examples_of(random_tokens(3)), model.device)
    for step in (1, 1, 2, 2, 1):
        loss = model.load(folders[step])
        assert model.checksum == checksum_of_folder(store.address(folders[step]))
        assert not loss.training
        expected = held.LabelLoss(small_model("gpt_neox", seed=step))(*batch)
        assert torch.equal(loss(*batch), expected)
    assert loads == [store.address(folders[step]) for step in (1, 2, 1)]


def test_the_old_model_is_gone_before_the_next_is_loaded(store, folders, monkeypatch):
    model, load = HeldModel(store, WorkersConfig()), held.load_model
    old = weakref.ref(model.load(folders[1]))

    def load_alone(local, **how):
        gc.collect()
        assert old() is None
        return load(local, **how)

    monkeypatch.setattr(held, "load_model", load_alone)
    model.load(folders[2])


def test_the_dtype_is_the_one_asked_for(store, folders):
    loss = HeldModel(store, WorkersConfig(), dtype="bfloat16").load(folders[1])
    assert loss.model.dtype == torch.bfloat16


def test_what_could_not_be_loaded_is_not_held(store, folders, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = HeldModel(store, WorkersConfig(), advice="use a smaller model")
    model.load(folders[1])
    with monkeypatch.context() as patched:
        patched.setattr(held, "load_model", full)
        message = r"000002: out of GPU memory while loading .*CUDA.*; use a smaller model$"
        with pytest.raises(ValueError, match=message):
            model.load(folders[2])
        with pytest.raises(ValueError, match="out of GPU memory"):  # nor is the one before
            model.load(folders[1])
    assert model.load(folders[1]).model.config.num_hidden_layers == 2


def test_a_damaged_checkpoint_is_refused(store, folders):
    files = store.upload(store.address(folders[1]), "copy")
    store.commit("copy", "f", files, {})
    store.write_bytes(b"other", "copy", "model.safetensors")
    with pytest.raises(Damaged, match=r"copy/model\.safetensors: damaged: expected checksum"):
        HeldModel(store, WorkersConfig()).load("copy")
