"""Training functions of a user's own, and trainings with them.

    python -m support.own FOLDER s3://BUCKET/PREFIX

trains in a Ray of its own with a run directory in S3, as two commands, and prints what was told.
"""

import json
import sys
from pathlib import Path

from s2l_ray.selection.dataset import training_dataset
from s2l_ray.training.own import train_own
from support.training import SEED, Job, config_of

MODULE = """
import os
import signal
import time
from pathlib import Path

import ray.train

NOTES = Path({notes!r})


def first(name):
    try:
        os.close(os.open(NOTES / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def train(config):
    from transformers import AutoModelForCausalLM

    rank = ray.train.get_context().get_world_rank()
    done = 0
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            done = int(Path(folder, f"rank-{{rank}}").read_text())
    first(f"rank {{rank}} from {{done}}")
    for step in range(done + 1, config["steps"] + 1):
        if step == 4 and first(f"rank {{rank}} raised"):
            raise KeyError("no such column")
        if step == 6 and rank == 1 and first("killed"):
            time.sleep(10)  # until Ray Train's controller has registered the last checkpoint
            os.kill(os.getpid(), signal.SIGKILL)
        here, told = Path(config["output"], f"step-{{step}}"), None
        if step % 2 == 0:
            here.mkdir()
            (here / f"rank-{{rank}}").write_text(str(step))
            told = ray.train.Checkpoint.from_directory(here)
        ray.train.report({{"step": step, "loss": 10 - step + rank}}, checkpoint=told)
    if rank == 0:
        AutoModelForCausalLM.from_pretrained(config["model"]).save_pretrained(config["output"])


def leave_nothing(config):
    (NOTES / "config").write_text(repr(config))
    for name in ("train", "whole"):
        rows = list(ray.train.get_dataset_shard(name).iter_rows())
        (NOTES / name).write_text(repr([row["example_id"] for row in rows]))
    Path(config["output"], "notes.txt").write_text("no model")


def leave_adapter(config):
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(config["model"])
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM"))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.data.fill_(0.5)
    model.save_pretrained(config["output"])


def of_two(config, more):
    pass


NUMBER = 3
"""


def own_config(name, **changes):
    return config_of(checkpoint_every=None, train=name, **changes)


def train_with(job, config, folder):
    corpus = job.store.manifest("corpus/test")
    return train_own(
        job.store,
        training_dataset(job.store, corpus, job.tokens),
        job.tokens,
        config,
        tokenizer_folder="tokenizer",
        folder=folder,
        fingerprint=folder,
        seed=SEED,
        label="own",
    )


def write_module(folder, name):
    """Write MODULE to `folder`, and a folder for its notes."""
    (folder / "notes").mkdir()
    (folder / f"{name}.py").write_text(MODULE.format(notes=str(folder / "notes")))


def main():
    from s2l_ray.execution.connect import connect

    folder, uri = Path(sys.argv[1]), sys.argv[2]
    connect()
    job, told = Job(folder, uri), []
    for _ in range(2):
        try:
            train_with(job, own_config("mine:train", max_failures=1), "targets/own")
        except ValueError as error:
            told.append(str(error))
    manifest = job.store.manifest("targets/own")
    found = {"told": told, "info": manifest.info, "names": job.store.names("targets/own")}
    print(json.dumps(found | {"fault": job.store.fault(manifest)}))


if __name__ == "__main__":
    main()
