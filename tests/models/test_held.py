"""The model that an actor holds: loaded once, one at a time, known by its files."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from support.models import random_tokens, small_model

from s2l_ray.config import WorkersConfig
from s2l_ray.errors import Damaged
from s2l_ray.models import held
from s2l_ray.models.batch import examples_of, pad
from s2l_ray.models.held import HeldModel
from s2l_ray.models.loading import Placing, load_model
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


def test_small_models_stay_on_a_gpu_that_has_room(store, folders, loads, monkeypatch):
    [size] = {(Path(store.address(folder)) / "model.safetensors").stat().st_size
              for folder in folders.values()}  # fmt: skip
    third = "proxy/checkpoint-000003"
    small_model("gpt_neox", seed=3).save_pretrained(store.address(third))
    monkeypatch.setattr(held, "room_of", lambda *_: 2.5 * size)
    model = HeldModel(store, WorkersConfig())
    first = model.load(folders[1])
    second = model.load(folders[2])
    assert model.load(folders[1]) is first and model.load(folders[2]) is second
    assert model.checksum == checksum_of_folder(store.address(folders[2]))
    model.load(third)  # the one that was used last longest ago goes
    assert model.load(folders[2]) is second
    assert model.load(folders[1]) is not first
    names = [Path(local).name[-1] for local in loads]
    assert names == ["1", "2", "3", "1"]
    assert model.drop(keep=1) and not model.drop(keep=1)
    assert [*model.held] == [folders[1]]


def test_models_that_are_kept_go_if_the_next_finds_no_room(store, folders, monkeypatch):
    monkeypatch.setattr(held, "room_of", lambda *_: 1e9)
    model, load, tries = HeldModel(store, WorkersConfig()), held.load_model, []
    model.load(folders[1])

    def full(local, **how):
        tries.append(len(model.held))
        if model.held:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(local, **how)

    monkeypatch.setattr(held, "load_model", full)
    assert model.load(folders[2]).model.config.num_hidden_layers == 2
    assert tries == [1, 0] and [*model.held] == [folders[2]]


def test_on_a_cpu_one_model_is_kept():
    for workers in (WorkersConfig(), WorkersConfig(gpus_per_worker=2)):
        assert held.room_of(torch.device("cpu"), workers) == 0
    assert held.room_of(torch.device("cuda"), WorkersConfig(gpus_per_worker=2)) == 0


def test_an_actor_with_several_gpus_spreads_the_layers(store, folders, monkeypatch):
    """transformers finds no GPU here and leaves all on the CPU; tests/models/test_spread.py has
    the layers on two devices."""
    seen, load = [], held.load_model
    monkeypatch.setattr(
        held, "load_model", lambda local, **how: seen.append(how) or load(local, **how)
    )
    batch = pad(examples_of(random_tokens(3)), torch.device("cpu"))
    with torch.inference_mode():
        whole = HeldModel(store, WorkersConfig()).load(folders[1])(*batch)
        spread = HeldModel(store, WorkersConfig(gpus_per_worker=2)).load(folders[1])
        assert torch.equal(spread(*batch), whole)
    assert ["placing" in how for how in seen] == [False, True]
    assert seen[1]["placing"].device == "auto"


def test_a_model_that_does_not_fit_its_gpus_is_refused(store, folders):
    places = {"gpt_neox.embed_in": "cpu", "gpt_neox.rotary_emb": "cpu", "lm_head": "cpu",
              "gpt_neox.layers.0": "cpu", "gpt_neox.layers.1": "disk",
              "gpt_neox.final_layer_norm": "cpu"}  # fmt: skip
    with pytest.raises(ValueError, match=r"000001: does not fit into the memory of 0 GPUs; raise"):
        load_model(store.address(folders[1]), placing=Placing(device=places))


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_a_choice(store, folders, tf32):
    HeldModel(store, WorkersConfig(), tf32=tf32).load(folders[1])
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
