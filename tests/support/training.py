"""Small trainings on a real Ray Train, some of which are killed."""

import os
import signal
from itertools import islice

import torch
from safetensors.torch import load_file

from s2l_ray.config import PromptConfig, TrainingConfig
from s2l_ray.corpus.tokenization import encode_table
from s2l_ray.corpus.tokenizer import load_tokenizer, prepare_tokenizer
from s2l_ray.store import Store
from s2l_ray.training.batches import BatchStream
from s2l_ray.training.train import train
from support.corpora import random_examples, write_corpus

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

    def upload(self, local, *folder, **how):
        copied = super().upload(local, *folder, **how)
        if (
            folder[-2:-1] == ("resume",)
            and folder[-1] in self.deadly
            and self._note(f"kill {folder[-1]}")
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        return copied

    def download(self, *folder, **how):
        *_, above, name = ("", *"/".join(folder).split("/"))
        if above == "resume":
            self._note(f"from {name}")
        return super().download(*folder, **how)


class Job:
    """A store with tokens to train on; `run` trains into a folder of it."""

    def __init__(self, root, uri=None):
        self.root = root
        self.store = store = Store(uri or root / "run")
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

    def run(self, folder, config, deadly=(), **how):
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
            **how,
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
