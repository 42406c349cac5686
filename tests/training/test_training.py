"""Training on a real Ray Train: against plain torch, stopped and restarted, DDP and DeepSpeed."""

import hashlib
import os
import signal
import subprocess
import sys
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.train
import torch
from safetensors.torch import load_file
from support.corpora import random_examples, write_corpus
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    get_cosine_schedule_with_warmup,
)

from s2l_ray.config import ModelConfig, PromptConfig, TrainingConfig
from s2l_ray.corpus.tokenization import encode_table
from s2l_ray.corpus.tokenizer import load_tokenizer, prepare_tokenizer
from s2l_ray.errors import Damaged
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.scoring.scorer import score_table
from s2l_ray.store import Store
from s2l_ray.training.batches import BatchStream
from s2l_ray.training.checkpoints import checkpoint_steps, checkpoints_of, num_steps
from s2l_ray.training.loop import dropout_seed, learning_rate
from s2l_ray.training.resume import last_resume_point
from s2l_ray.training.train import train

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

SEED, STEPS = 5, 6
BASE = {
    "model": {
        "architecture": {
            "model_type": "llama",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            "initializer_range": 0.1,
            "tie_word_embeddings": True,
        },
        "tokenizer_vocab": 300,
    },
    "max_steps": STEPS,
    "checkpoint_every": 3,
    "resume_every": 2,
    "global_batch_size": 8,
    "micro_batch_size": 2,  # so that two workers accumulate two micro-batches
    "learning_rate": 1e-3,
    "warmup_share": 0.3,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "max_failures": 0,
    "workers": {"num_workers": 2},
}


def config_of(**changes):
    return TrainingConfig.model_validate(BASE | changes)


class FaultyStore(Store):
    """Kills the process that uses it, once for each of the named resume points: when that one is
    half written. Notes which resume points are read. `notes` is a local folder."""

    def __init__(self, uri, notes, deadly=()):
        super().__init__(uri)
        self.notes, self.deadly = notes, deadly

    def __reduce__(self):
        return FaultyStore, (self.uri, self.notes, self.deadly)

    def _note(self, name):
        try:
            os.close(os.open(os.path.join(self.notes, name), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def upload(self, local, *folder, last="config.json"):
        copied = super().upload(local, *folder, last=last)
        if (
            folder[-2] == "resume"
            and folder[-1] in self.deadly
            and self._note(f"kill {folder[-1]}")
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        return copied

    def download(self, *folder):
        if folder[-2:-1] == ("resume",):
            self._note(f"from {folder[-1]}")
        return super().download(*folder)


class Job:
    """A store with tokens to train on; `run` trains into a folder of it."""

    def __init__(self, root):
        self.root = root
        self.store = store = Store(root / "run")
        examples = random_examples(45, seed=3)
        for row in examples[::11]:
            row["turns"][0]["text"] = "long " * 200  # no label is left: not trained on
        corpus = write_corpus(store, examples, num_parts=3)
        model = config_of().model
        prepare_tokenizer(store, model, corpus, folder="tokenizer")
        self.tokenizer = load_tokenizer(store, "tokenizer")
        parts = []
        for part in corpus.parts:
            table = encode_table(
                store.read_part(corpus.folder, part),
                PromptConfig(template="plain", max_length=96),
                self.tokenizer,
            )
            trainable = int((table["num_label_tokens"].to_numpy() > 0).sum())
            stats = {"trainable": trainable}
            parts.append(store.write_part(table, "tokens", part.unit, stats=stats))
        self.tokens = store.commit("tokens", "tokens", parts, {"max_length": 96})
        assert sum(part.stats["trainable"] for part in parts) < 45

    def run(self, folder, config, deadly=()):
        notes = self.root / f"notes-{folder}"
        notes.mkdir(exist_ok=True)
        return train(
            FaultyStore(self.store.uri, str(notes), deadly),
            self.tokens,
            config,
            tokenizer_folder="tokenizer",
            folder=folder,
            fingerprint=folder,
            seed=SEED,
        )

    def notes(self, folder):
        return sorted(os.listdir(self.root / f"notes-{folder}"))

    def weights(self, folder, step=STEPS):
        path = self.store.address(folder, f"checkpoint-{step:06d}", "model.safetensors")
        return load_file(path)

    def batches(self):
        """The examples of each step, in the order of training (tested in test_batches)."""
        read = lambda i: self.store.read_part("tokens", self.tokens.parts[i])  # noqa: E731
        rows = [part.stats["trainable"] for part in self.tokens.parts]
        return islice(BatchStream(read, rows, seed=SEED, batch_size=8).batches(), STEPS)


@pytest.fixture(scope="module")
def job(local_ray, tmp_path_factory):
    return Job(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def undisturbed(job):
    """The training that others are compared with: two DDP workers, nothing goes wrong."""
    return job.run("undisturbed", config_of())


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


def assert_close(found, expected, atol=2e-6):
    assert set(found) <= set(expected)  # tied weights are stored once
    assert {*expected} - {*found} <= {"lm_head.weight"}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol, msg=name)


def assert_same_bits(job, folder, reference="undisturbed"):
    for step in (3, STEPS):
        found, expected = job.weights(folder, step), job.weights(reference, step)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


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
    assert "model.safetensors" in left and "optimizer.safetensors" not in left  # no step follows
    one = job.run("one", config)
    assert_close(job.weights("one"), job.weights("undisturbed"))
    assert_close(job.weights("one"), plain[0])
    np.testing.assert_allclose(one.info["history"], undisturbed.info["history"], atol=2e-6)


def test_checkpoints_manifest_and_folder(job, undisturbed):
    assert undisturbed.info["checkpoints"] == [3, 6]
    assert undisturbed.info["step"] == STEPS
    assert job.store.names("undisturbed") == [
        "checkpoint-000003",
        "checkpoint-000006",
        "manifest.json",
    ]
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
def test_killed_workers_are_replaced_and_a_stopped_run_goes_on_to_the_same_bits(job, undisturbed):
    deadly = ("step-000003", "step-000004")
    with pytest.raises(ray.train.TrainingFailedError):
        job.run("killed", config_of(max_failures=0), deadly)
    assert job.notes("killed") == ["kill step-000003"]
    assert job.store.manifest("killed") is None
    left = job.store.names("killed", "resume", "step-000002")
    assert "manifest.json" in left
    assert {Path(name).suffix for name in left} == {".json", ".safetensors"}  # nothing pickled
    for step in (990, 991):  # two that came to nothing count for none
        job.store.write_bytes(b"", "killed", "resume", f"step-{step:06d}", "model.safetensors")
    manifest = job.run("killed", config_of(max_failures=1), deadly)
    assert [note for note in job.notes("killed") if not note.startswith("kill")] == [
        "from step-000002",
        "from step-000003",
    ]
    assert_same_bits(job, "killed")
    assert manifest.info["history"] == undisturbed.info["history"]
    assert manifest.info["tokens"] == undisturbed.info["tokens"]
    assert [(p.file, p.checksum) for p in manifest.parts] == [
        (p.file, p.checksum) for p in undisturbed.parts
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3, 1, 0])
def test_deepspeed_trains_like_ddp_and_resumes(job, undisturbed, stage):
    # With what the shipped configurations of large models have beside ZeRO-3.
    how = {"zero_stage": stage, "gradient_checkpointing": stage == 3}
    folder, config = f"zero{stage}", config_of(**how)
    if stage >= 2:  # stopped while a resume point is half written; goes on at another size
        one = config_of(**how, workers={"num_workers": 1})
        before, config = (config, one) if stage == 2 else (one, config)
        with pytest.raises(ray.train.TrainingFailedError):
            job.run(folder, before, deadly=("step-000004",))
    manifest = job.run(folder, config)
    if stage >= 2:
        assert job.notes(folder) == ["from step-000003", "kill step-000004"]
    assert manifest.info["checkpoints"] == [3, 6]
    np.testing.assert_allclose(manifest.info["history"], undisturbed.info["history"], atol=1e-5)
    assert_close(job.weights(folder, 3), job.weights("undisturbed", 3), atol=1e-5)
    assert_close(job.weights(folder), job.weights("undisturbed"), atol=1e-5)
    # The folder loads, and what it loads has the losses of DDP's.
    table = job.store.read_part("tokens", job.tokens.parts[0])
    found, expected = (
        score_table(table, LabelLoss(AutoModelForCausalLM.from_pretrained(job.store.address(path))))
        for path in (f"{folder}/checkpoint-000006", "undisturbed/checkpoint-000006")
    )
    np.testing.assert_allclose(found["loss"], expected["loss"], atol=1e-4)


@pytest.mark.slow
def test_deepspeed_keeps_to_the_device_that_it_is_given(tmp_path):
    """As on a machine whose GPU DeepSpeed sees, and Ray gave to nobody."""
    code = f"""
import torch
import torch.distributed as dist
from test_training import config_of
from s2l_ray.training.engines import make_engine
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss
dist.init_process_group("gloo", init_method="file://{tmp_path}/group", rank=0, world_size=1)
class Tokenizer:
    bos_token_id = eos_token_id = pad_token_id = 0
    def __len__(self):
        return 320
config = config_of(zero_stage=2)
loss = LabelLoss(initial_model(config.model, Tokenizer(), seed=0))
engine = make_engine(loss, config, torch.device("cpu"), 1)
print(*{{weights.device.type for weights in loss.parameters()}})
"""
    environment = os.environ | {"DS_ACCELERATOR": "cuda", "LOCAL_RANK": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    assert found.stdout.split()[-1:] == ["cpu"], found.stderr[-3000:]


@pytest.mark.slow
def test_bf16_step_keeps_fp32_master_weights(job, undisturbed):
    """DeepSpeed ZeRO-2; one step, since bf16 is slow on many a CPU."""
    model = BASE["model"] | {"dtype": "bfloat16"}
    manifest = job.run(
        "bf16",
        config_of(
            model=model,
            zero_stage=2,
            max_steps=1,
            checkpoint_every=1,
            warmup_share=0,
            workers={"num_workers": 1},
        ),
    )
    (_, loss), (_, expected) = manifest.info["history"][0], undisturbed.info["history"][0]
    assert 0 < abs(loss - expected) < 0.05
    weights = job.weights("bf16", 1)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    loaded = AutoModelForCausalLM.from_pretrained(job.store.address("bf16/checkpoint-000001"))
    assert loaded.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.slow
def test_a_model_in_a_relative_folder_and_one_with_too_few_positions(job, tmp_path):
    one = {"workers": {"num_workers": 1}, "max_steps": 1}
    shape = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 96}
    enough = ModelConfig(architecture=shape, tokenizer_vocab=320)
    folder = tmp_path / "model"
    initial_model(enough, job.tokenizer, seed=SEED).save_pretrained(folder)
    job.run("relative", config_of(model={"name": os.path.relpath(folder)}, **one))
    shorter = {"architecture": shape | {"n_positions": 95}, "tokenizer_vocab": 320}
    with pytest.raises(ValueError, match=r"max_length: 96 tokens, but .* of 95 positions"):
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
    message = r"diverges: the training loss is .* at step 2 \(learning rate 9.33e\+17\)"
    with pytest.raises(ValueError, match=message):
        job.run("diverges", config)
    assert job.store.manifest("diverges") is None


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


def test_the_last_resume_point_is_the_newest_whole_one(store, tmp_path, said):
    def keep(step):
        local = tmp_path / str(step)
        local.mkdir()
        (local / "model.safetensors").write_bytes(b"1234")
        files = store.upload(local, "training", "resume", f"step-{step:06d}")
        store.commit(f"training/resume/step-{step:06d}", "mark", files, {"step": step})

    assert last_resume_point(store, "training")[1]["step"] == 0
    for step in (999_500, 1_000_000):  # by name the other way round
        keep(step)
    store.write_bytes(b"", "training", "resume", "step-1000500", "model.safetensors")
    assert last_resume_point(store, "training") == ("step-1000000", {"step": 1_000_000})
    store.write_bytes(b"12", "training", "resume", "step-1000000", "model.safetensors")
    assert last_resume_point(store, "training") == ("step-999500", {"step": 999_500})
    text = said()
    assert "step-1000000/model.safetensors: 2 bytes, the manifest lists 4" in text
    keep(999_900)
    store.write_bytes(b"{", "training", "resume", "step-999900", "manifest.json")
    assert last_resume_point(store, "training")[0] == "step-999500"
    assert "step-999900/manifest.json: damaged: not JSON" in said()
    store.write_bytes(b"1235", "training", "resume", "step-999500", "model.safetensors")
    with pytest.raises(Damaged, match=r"step-999500/model\.safetensors: damaged: checksum"):
        store.download("training", "resume", "step-999500")
