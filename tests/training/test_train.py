"""Training on a real Ray Train, against plain torch; what it writes and what it refuses."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from support.hub import COMMIT, TOKEN, Hub
from support.training import SEED, STEPS, assert_close, config_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray.config import ModelConfig
from s2l_ray.errors import LimitReached
from s2l_ray.execution import deadline
from s2l_ray.models.loading import initial_model
from s2l_ray.store import Store
from s2l_ray.training.checkpoints import checkpoints_of
from s2l_ray.training.resume import last_resume_point


@pytest.fixture(scope="module")
def plain(job):
    """The same training as one would write it in plain torch: weights after it, loss per step."""
    torch.manual_seed(0)
    model = initial_model(config_of().model, job.tokenizer, seed=SEED).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1)
    losses = []
    for step, batch in enumerate(job.batches()):
        total, labels = 0.0, 0
        for ids, mask in batch:
            target = torch.where(torch.from_numpy(mask), torch.from_numpy(ids), -100)
            loss = model(input_ids=torch.from_numpy(ids)[None], labels=target[None]).loss
            total += loss * int(mask.sum())
            labels += int(mask.sum())
        mean = total / labels
        mean.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
        assert norm > 0.5  # the clipping is at work
        for parameter in model.parameters():
            parameter.grad *= 0.5 / norm
        for group in optimizer.param_groups:
            # Warm-up over ceil(0.3 * 6) = 2 steps, then half a cosine over the 4 that follow.
            group["lr"] = 1e-3 * [0.5, 1, 1, 0.853553, 0.5, 0.146447][step]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean.item())
    return model.state_dict(), losses


def test_two_workers_train_like_plain_torch(job, undisturbed, plain):
    weights, losses = plain
    assert_close(job.weights("undisturbed"), weights)
    assert [step for step, _ in undisturbed.info["history"]] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([loss for _, loss in undisturbed.info["history"]], losses, atol=2e-6)
    start = initial_model(config_of().model, job.tokenizer, seed=SEED).state_dict()
    moved = max((weights[name] - start[name]).abs().max() for name in weights)
    assert moved > 1e-3  # the tolerance is small beside what training does
    tokens = sum(len(ids) for batch in job.batches() for ids, _ in batch)
    assert undisturbed.info["tokens"] == tokens
    assert tokens <= undisturbed.info["padded_tokens"] < 2 * tokens


@pytest.mark.slow
def test_one_worker_trains_like_two(job, undisturbed, plain, monkeypatch):
    config = config_of(workers={"num_workers": 1}, micro_batch_size=4)

    def die(*_):
        raise OSError("the driver dies between the last step and the stage's manifest")

    with monkeypatch.context() as dying, pytest.raises(OSError, match="the driver dies"):
        dying.setattr(Store, "commit", die)
        job.run("one", config)
    left = job.store.names("one", "resume", f"step-{STEPS:06d}")
    assert left == ["manifest.json"]  # no step follows, and the checkpoint has the weights
    one = job.run("one", config)
    assert_close(job.weights("one"), job.weights("undisturbed"))
    assert_close(job.weights("one"), plain[0])
    np.testing.assert_allclose(one.info["history"], undisturbed.info["history"], atol=2e-6)


@pytest.mark.slow
def test_a_training_that_reaches_a_limit_saves_and_goes_on_to_the_same_bits(job, undisturbed):
    config = config_of(checkpoint_every=2)
    with deadline.within(0.0, "max_gpu_hours: spent"), pytest.raises(LimitReached, match="spent"):
        job.run("limited", config, keep=1)
    state = last_resume_point(job.store, "limited")[1]
    assert (state.step, state.checkpoints) == (1, [])
    made = job.run("limited", config, keep=1)
    assert made.info["checkpoints"] == [STEPS]
    assert job.store.names("limited")[:-2] == [f"checkpoint-{STEPS:06d}"]
    assert job.store.fault(made) is None
    found, expected = job.weights("limited"), job.weights("undisturbed")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_manifest_is_made_again_from_checkpoints_that_are_whole_alone(job, undisturbed, said):
    file = Path(job.store.address("undisturbed/checkpoint-000003/model.safetensors"))
    whole = file.read_bytes()
    job.store.remove("undisturbed", "manifest.json")
    assert job.run("undisturbed", config_of()) == undisturbed and said() == ""
    job.store.remove("undisturbed", "manifest.json")
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = job.run("undisturbed", config_of())
    assert "model.safetensors: damaged" in (told := said()) and "training begins again" in told
    assert again.files == undisturbed.files and file.read_bytes() == whole


@pytest.mark.slow
def test_packing_trains_like_padding(job, undisturbed):
    packed = job.run("packed", config_of(packing=True))
    assert_close(job.weights("packed"), job.weights("undisturbed"))
    np.testing.assert_allclose(packed.info["history"], undisturbed.info["history"], atol=2e-6)
    assert packed.info["padded_tokens"] == packed.info["tokens"] == undisturbed.info["tokens"]


def test_checkpoints_manifest_and_folder(job, undisturbed):
    assert undisturbed.info["checkpoints"] == [3, 6]
    assert undisturbed.info["step"] == STEPS
    assert job.store.names("undisturbed") == [
        "checkpoint-000003",
        "checkpoint-000006",
        "manifest.json",
        "resume",
    ]
    # The last resume point's manifest lists the checkpoints too.
    [point] = job.store.names("undisturbed", "resume")
    assert point.startswith(f"step-{STEPS:06d}")
    assert job.store.names("undisturbed", "resume", point) == ["manifest.json"]
    listed = {part.file: part for part in undisturbed.parts}
    on_disk = {
        f"{name}/{file}"
        for name in ("checkpoint-000003", "checkpoint-000006")
        for file in job.store.names("undisturbed", name)
    }
    assert set(listed) == on_disk
    for file, part in listed.items():
        data = job.store.read_bytes("undisturbed", file)
        assert len(data) == part.bytes
        assert hashlib.blake2b(data, digest_size=8).hexdigest() == part.checksum
    for step, folder in checkpoints_of(undisturbed).items():
        path = job.store.address(folder)
        model = AutoModelForCausalLM.from_pretrained(path)
        assert model.dtype == torch.float32
        assert model.lm_head.weight is model.model.embed_tokens.weight
        torch.testing.assert_close(
            model.model.norm.weight.data, job.weights("undisturbed", step)["model.norm.weight"]
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
        text = "17 w3 w44 — ünïcode\n<|endoftext|>"
        assert tokenizer(text)["input_ids"] == job.tokenizer(text)["input_ids"]
        assert tokenizer.eos_token_id == job.tokenizer.eos_token_id == model.config.eos_token_id


@pytest.mark.slow
def test_a_hub_model_is_read_from_the_hub_once_and_by_the_driver_alone(job, tmp_path, monkeypatch):
    initial_model(config_of().model, job.tokenizer, seed=3).save_pretrained(tmp_path / "model")
    files = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    with Hub({"team/model": {"main": files}}) as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)  # the workers have no token, and know no such hub
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        found = job.run("hub", config_of(model={"name": "team/model"}, max_steps=1))
    assert hub.asked["content"] == len(files)
    assert found.info["model"] == {"name": "team/model", "revision": None, "commit": COMMIT["main"]}
    local = {"name": str(tmp_path / "model")}
    expected = job.run("local", config_of(model=local, max_steps=1))
    assert found.info["history"] == expected.info["history"]


@pytest.mark.slow
def test_a_training_that_finds_no_room_goes_on_with_the_workers_that_fit(job, monkeypatch, said):
    monkeypatch.setattr("s2l_ray.training.train.WAIT_MINUTES", 2)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    four = {"num_workers": 4, "cpus_per_worker": 2}  # of the 4 CPUs of this Ray
    small = config_of(workers=four, min_workers=1, zero_stage=2, max_steps=1)
    assert job.run("smaller", small).info["workers"] == 2
    assert "no room for 4 workers for 2 minutes; training continues with 2" in said()


@pytest.mark.slow
def test_a_model_in_a_relative_folder_and_one_with_too_few_positions(job, tmp_path):
    one = {"workers": {"num_workers": 1}, "max_steps": 1}
    shape = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 96}
    enough = ModelConfig(architecture=shape, tokenizer_vocab=320)
    folder = tmp_path / "model"
    initial_model(enough, job.tokenizer, seed=SEED).save_pretrained(folder)
    job.run("relative", config_of(model={"name": os.path.relpath(folder)}, **one))
    shorter = {"architecture": shape | {"n_positions": 95}, "tokenizer_vocab": 320}
    with pytest.raises(ValueError, match=r"max_length: 96 tokens, but .* of only 95 positions"):
        job.run("shorter", config_of(model=shorter, **one))


@pytest.mark.slow
def test_a_model_whose_losses_would_go_by_the_longest_example_of_a_batch_is_refused(job):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    one = {"workers": {"num_workers": 1}, "max_steps": 1}
    grows = config_of().model.architecture | {
        "max_position_embeddings": 95,
        "rope_parameters": rope,
    }
    dynamic = {"architecture": grows, "tokenizer_vocab": 320}
    with pytest.raises(ValueError, match=r"max_length: 96 tokens, but beyond 95 positions"):
        job.run("dynamic", config_of(model=dynamic, **one))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_with_what_to_do(job):
    config = config_of(learning_rate=1e18, warmup_share=0, workers={"num_workers": 1})
    message = r"diverges: the training loss is .* at step 2 \(learning rate 9.33e\+17\); lower"
    with pytest.raises(ValueError, match=message):
        job.run("diverges", config)
    assert job.store.manifest("diverges") is None
