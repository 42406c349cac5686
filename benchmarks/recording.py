"""What recording losses during training costs: steps of transformers' Trainer with and without it.

    python benchmarks/recording.py

One training on generated tokens, in which LossRecorder works in every other step. Every step has
the same number of tokens, and half of them are labels.

- `with`, `without`: the median step with and without recording, in seconds.
- `write`: seconds per step that writing the losses takes.
- `overhead`: the share of a step that both add.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from benchmarks import machine
from benchmarks.gpu_checks.setup import SHAPES, Setup
from s2l_ray.record import LossRecorder

SEED = 0
FIRST = 4  # steps that do not count: caches and threads start


class EveryOtherStep(LossRecorder):
    """Records in the steps with even numbers."""

    def _on_forward(self, *inputs: Any) -> None:
        if self.step % 2 == 0:
            super()._on_forward(*inputs)


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *event: Any, **about: Any) -> None:
        self.began = now()

    def on_step_end(self, *event: Any, **about: Any) -> None:
        self.seconds.append(now() - self.began)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="Pythia-70M")
    parser.add_argument("--small", action="store_true", help="a tiny model of that family")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8, help="examples per step")
    parser.add_argument("--tokens", type=int, default=256, help="per example")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    arguments = parser.parse_args()
    setup = Setup("cuda" if torch.cuda.is_available() else "cpu", arguments.small)
    model = setup.model(arguments.shape)
    size = (arguments.steps * arguments.batch, arguments.tokens)
    ids = np.random.default_rng(SEED).integers(0, model.config.vocab_size, size)
    labels = np.where(np.arange(arguments.tokens) < arguments.tokens // 2, -100, ids)
    rows = Dataset.from_dict({"input_ids": ids, "labels": labels})
    with tempfile.TemporaryDirectory() as folder:
        recorder, clock = EveryOtherStep(f"{folder}/losses"), Clock()
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=arguments.batch,
            num_train_epochs=1,
            use_cpu=setup.device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(
            model,
            settings,
            train_dataset=rows,
            data_collator=default_data_collator,
            callbacks=[recorder, clock],
        ).train()
        assert recorder.writer is not None
        losses = np.random.default_rng(SEED).random(size[0])
        recorder.writer.add(0, np.arange(size[0]), losses)
        write = setup.seconds(recorder.writer.flush) / arguments.steps
    steps = {
        "with": median(clock.seconds[FIRST::2]),
        "without": median(clock.seconds[FIRST + 1 :: 2]),
    }
    overhead = (steps["with"] + write) / steps["without"] - 1
    row = {"shape": arguments.shape, **steps, "write": write, "overhead": f"{overhead:.1%}"}
    print(machine.table([row], list(row)))
    machine.write(arguments.json, vars(arguments), [row | {"overhead": overhead}])


if __name__ == "__main__":
    main()
