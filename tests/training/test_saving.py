"""Saving while the training goes on, and weights in Hugging Face format."""

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models import config_of, tiny_tokenizer
from support.training import config_of as training_config
from support.workers import CPU, Tokenizer, batch_of, train_until

from s2l_ray.errors import Damaged, LeaseLost
from s2l_ray.models.loading import initial_model, load_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.store import Manifest, Store
from s2l_ray.store.lease import Lease
from s2l_ray.training.checkpoints import drop_checkpoints, need_checkpoints
from s2l_ray.training.engines import make_engine
from s2l_ray.training.engines.shared import copy_weights
from s2l_ray.training.job import TrainingJob
from s2l_ray.training.resume import TrainingState, last_resume_point
from s2l_ray.training.saving import Saver
from s2l_ray.training.step import train_step

CONFIG = training_config(workers={"num_workers": 1})


class SlowStore(Store):
    """Uploads when `go` is set, and fails if `error` is set. Counts the bytes by file."""

    def __init__(self, uri, epoch=None):
        super().__init__(uri, epoch=epoch)
        self.go, self.error, self.bytes = threading.Event(), None, {}
        self.go.set()

    def upload(self, local, *folder, **how):
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error
        parts = super().upload(local, *folder, **how)
        self.bytes |= {"/".join([*folder, part.file]): part.bytes for part in parts}
        return parts


class Training:
    def __init__(self, store, keep=None):
        self.store = store
        job = TrainingJob(
            store, None, CONFIG, "", None, "training", "training", 5, 6, None, keep=keep
        )
        model = initial_model(CONFIG.model, Tokenizer(), seed=5)
        self.engine = make_engine(LabelLoss(model), CONFIG, CPU, 1)
        self.saver = Saver(job, self.engine, Tokenizer(), "")
        self.state = TrainingState(workers=1)

    def step(self):
        train_step(self.engine, batch_of(CONFIG, self.state.step), 1e-3, device=CPU)
        self.state.step += 1

    def save(self, publish=False):
        self.saver.save(self.state, publish=publish)

    def newest(self):
        return last_resume_point(Store(self.store.uri), "training")


@pytest.fixture
def training(tmp_path):
    return Training(SlowStore(tmp_path))


def test_training_goes_on_while_its_copy_is_uploaded(training):
    training.step()
    expected = {name: w.clone() for name, w in training.engine.loss.model.state_dict().items()}
    training.store.go.clear()
    training.save(publish=True)
    training.step()  # changes the weights
    assert training.newest()[0] == ""
    later = threading.Thread(target=training.save)
    later.start()
    later.join(0.2)
    assert later.is_alive()  # it waits for the save before
    training.store.go.set()
    later.join(60)
    training.saver.wait()
    point, state = training.newest()
    assert (point, state.step, state.checkpoints, state.weights) == ("step-000002", 2, [1], "")
    assert training.store.names("training", "resume") == ["step-000001", "step-000002"]
    found = load_model(training.store.address("training/checkpoint-000001")).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_error_of_the_upload_is_raised_at_the_next_save(training):
    training.step()
    training.save()
    training.saver.wait()
    training.store.error = ValueError("the disk of the store is full")
    training.step()
    training.save()
    training.step()
    with pytest.raises(ValueError, match="the disk of the store is full"):
        training.save()
    assert training.newest()[1].step == 1  # the earlier one stays


def test_an_owner_that_lost_the_run_commits_nothing(tmp_path):
    training = Training(SlowStore(tmp_path, epoch=1))
    training.step()
    training.store.go.clear()
    training.save()
    lease = Lease(training.store, seconds=60).record | {"host": "other"}
    training.store.objects.write("lease/00000002.json", json.dumps(lease).encode())
    training.store.go.set()
    with pytest.raises(LeaseLost, match=r"taken over by another run \(host other"):
        training.saver.wait()
    assert training.newest()[0] == ""


def test_weights_are_uploaded_once(training):
    training.step()
    training.save(publish=True)
    training.saver.wait()
    weights = sum(w.numel() * 4 for w in training.engine.loss.parameters())
    uploaded = sum(n for name, n in training.store.bytes.items() if name.endswith("safetensors"))
    assert weights * 3 <= uploaded < weights * 3.1  # the weights and AdamW's two moments
    moments = load_file(
        training.store.address("training/resume/step-000001/optimizer-00000.safetensors")
    )
    assert {name.rpartition("/")[2] for name in moments} == {"step", "exp_avg", "exp_avg_sq"}
    training.step()
    training.save()  # no checkpoint: with the weights
    training.saver.wait()
    moments = load_file(
        training.store.address("training/resume/step-000002/optimizer-00000.safetensors")
    )
    assert {name.rpartition("/")[2] for name in moments} == {
        "fp32",
        "step",
        "exp_avg",
        "exp_avg_sq",
    }


def test_a_resume_point_needs_the_files_of_its_checkpoint(training, said):
    training.step()
    training.save()
    training.step()
    training.save(publish=True)
    training.saver.wait()
    assert training.newest()[1].step == 2
    Path(training.store.address("training/checkpoint-000002/model.safetensors")).unlink()
    assert training.newest()[1].step == 1
    assert "checkpoint-000002/model.safetensors: missing" in said()


def test_checkpoints_before_the_last_go_once_no_resume_point_needs_them(tmp_path):
    training = Training(SlowStore(tmp_path), keep=2)

    def there():
        return [name for name in training.store.names("training") if name != "resume"]

    for _ in range(4):
        training.step()
        training.save(publish=True)
    training.step()
    training.save()
    training.saver.wait()
    assert training.newest()[1].checkpoints == [3, 4]
    files = {part.file.split("/")[0] for part in training.newest()[1].files}
    assert files == {"checkpoint-000003", "checkpoint-000004"}
    # The resume point before, to which a training goes back if the last one is damaged, has these.
    assert there() == ["checkpoint-000003", "checkpoint-000004"]
    training.step()
    training.save(publish=True)
    training.saver.wait()
    assert training.newest()[1].checkpoints == [4, 6]
    assert there() == ["checkpoint-000003", "checkpoint-000004", "checkpoint-000006"]
    training.store.remove("training", "resume", "step-000006")
    state = training.newest()[1]
    assert (state.step, state.checkpoints) == (5, [3, 4])
    assert training.store.fault(Manifest("training", "", state.files)) is None


def test_checkpoints_that_were_dropped_are_not_missed_until_they_are_needed(tmp_path):
    training = Training(SlowStore(tmp_path))
    for _ in range(3):
        training.step()
        training.save(publish=True)
    training.saver.wait()
    store, state = training.store, training.newest()[1]
    info = {"checkpoints": [1, 2, 3]}
    manifest = store.commit("training", "training", state.files, info)
    for _ in range(2):  # a process may die in between
        drop_checkpoints(store, manifest, keep=1)
        names = store.names("training")
        assert names == ["checkpoint-000003", "dropped.json", "manifest.json", "resume"]
        assert store.fault(manifest) is None
        (tmp_path / "training/checkpoint-000001").mkdir()
        (tmp_path / "training/checkpoint-000001/config.json").write_text("half removed")
        store.write_json({}, "training", "dropped.json")
        assert "checkpoint-000001" in store.fault(manifest)  # the list is damaged
    drop_checkpoints(store, manifest, keep=1)
    need_checkpoints(store, manifest, [3])
    told = "checkpoint-000002: it was removed after it was scored .* and is needed again"
    with pytest.raises(Damaged, match=told) as needed:
        need_checkpoints(store, manifest, [2, 3])
    assert needed.value.folder == "training"
    assert "missing" in store.fault(manifest)  # so that it is trained again
    assert last_resume_point(store, "training")[0] == ""


def test_a_resume_point_of_version_0_1_is_read(tmp_path):
    """A model, and the optimizer's moments as whole tensors."""
    whole, old = str(tmp_path / "whole"), Training(SlowStore(tmp_path / "old"))
    train_until(whole, "training", CONFIG, 6, {6: True})
    for _ in range(3):
        old.step()
    local = tmp_path / "local"
    copy_weights(old.engine.loss, old.engine.loss.state_dict())(str(local))
    moments = {
        f"{name}/{key}": value.clone()
        for name, parameter in old.engine.loss.named_parameters()
        for key, value in old.engine.optimizer.state[parameter].items()
    }
    save_file(moments, local / "optimizer.safetensors")
    parts = old.store.upload(local, "training", "resume", "step-000003")
    info = old.state.as_info()
    del info["weights"]
    old.store.commit("training/resume/step-000003", "training", parts, info)
    train_until(old.store.uri, "training", CONFIG, 6, {6: True})
    found, expected = (
        load_file(f"{uri}/training/checkpoint-000006/model.safetensors")
        for uri in (old.store.uri, whole)
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_that_share_a_buffer_are_saved_each(store, tmp_path, tied):
    """ZeRO 1 and 2 keep all weights of a model in one. (That they are copied from a GPU first is
    not shown here.)"""
    loss = LabelLoss(
        initial_model(config_of(tie_word_embeddings=tied), tiny_tokenizer(store), seed=7)
    )
    wanted = {name: weights.clone() for name, weights in loss.model.state_dict().items()}
    parameters = list(loss.parameters())
    flat = torch.cat([weights.detach().flatten() for weights in parameters])
    for weights, share in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        weights.data = share.view_as(weights)
    write = copy_weights(loss, loss.state_dict())
    flat.zero_()  # training goes on
    write(str(tmp_path))
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    found = load_model(tmp_path).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
