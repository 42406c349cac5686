"""Compare estimates of a training worker's memory with the peaks of real workers.

    python benchmarks/memory.py

Each case starts its workers as plain processes (gloo), which load the model from a folder, make the
engine and train two steps, the last of whose micro-batches has full length. In GB:

- `estimate`: of a worker, by s2l_ray.models.memory
- `measured`: the largest resident size of a worker. Pages of the model's file count, which the
  workers of a node share.
- `loaded, all`: after loading, the largest sizes of all workers together
- `trained, all`: after the steps, the same
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import machine
from s2l_ray.config import TrainingConfig

SHAPES = {
    "llama 1.1B": {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "intermediate_size": 5632,
        "max_position_embeddings": 2048, "vocab_size": 32000,
    },
    "llama 300M": {
        "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 18,
        "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 2816,
        "max_position_embeddings": 1024, "vocab_size": 32000,
    },
    "llama 50M": {
        "model_type": "llama", "hidden_size": 512, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 1408,
        "max_position_embeddings": 1024, "vocab_size": 16000,
    },
    "gpt_neox 160M": {
        "model_type": "gpt_neox", "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 1024,
        "vocab_size": 50304,
    },
}  # fmt: skip

CASES: list[dict[str, Any]] = [
    {},
    {"gradient_checkpointing": True},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "gradient_checkpointing": True},
    {"num_workers": 2},
    {"num_workers": 2, "zero_stage": 2, "dtype": "bfloat16"},
    {"num_workers": 2, "zero_stage": 3, "dtype": "bfloat16"},
    {"num_workers": 2, "zero_stage": 3, "dtype": "bfloat16", "gradient_checkpointing": True},
    {"num_workers": 2, "zero_stage": 2},
    {"num_workers": 2, "zero_stage": 3},
    {"num_workers": 2, "zero_stage": 3, "dtype": "bfloat16", "lora": {"r": 8}},
    {"num_workers": 2, "zero_stage": 3, "dtype": "bfloat16", "lora": {"r": 8}, "live": 1e8},
    {"num_workers": 2, "dtype": "bfloat16", "lora": {"r": 8}},
]


def settings(folder: str, case: dict[str, Any]) -> TrainingConfig:
    """Return a case's settings. live: weights that ZeRO-3 may keep gathered."""
    workers = case.get("num_workers", 1)
    training = {k: v for k, v in case.items() if k not in ("num_workers", "dtype", "live")}
    if "live" in case:
        limits = ("stage3_max_live_parameters", "stage3_max_reuse_distance")
        training["deepspeed"] = {"zero_optimization": dict.fromkeys(limits, case["live"])}
    return TrainingConfig.model_validate(
        {
            "model": {"name": folder, "dtype": case.get("dtype", "float32")},
            "global_batch_size": 8 * workers,
            "micro_batch_size": 4,
            "workers": {"num_workers": workers},
        }
        | training
    )


def make_model(shape: dict[str, Any], dtype: str, folder: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**shape)
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)


def worker(rank: int, config: TrainingConfig, length: int, port: int, said: Any) -> None:
    import torch
    import torch.distributed as dist

    from s2l_ray.execution.machine import peak_memory
    from s2l_ray.models.adapters import model_with_adapters
    from s2l_ray.models.loading import initial_model
    from s2l_ray.models.loss import LabelLoss
    from s2l_ray.training.engines import make_engine, placing_of

    world, cpu = config.workers.num_workers, torch.device("cpu")
    torch.set_num_threads(max(1, 2 // world))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    if world > 1 or config.zero_stage is not None:
        dist.init_process_group("gloo")
    placing = placing_of(config, cpu, world)
    if config.lora is not None:
        model = model_with_adapters(config, config.model, seed=0, sharding=placing.sharding)
    else:
        model = initial_model(config.model, None, seed=0, placing=placing)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loaded = peak_memory()
    loss = LabelLoss(model)
    engine = make_engine(loss, config, cpu, world)
    ids_BL = torch.randint(0, model.config.vocab_size, (config.micro_batch_size, length))
    mask_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    accumulation = config.global_batch_size // world // config.micro_batch_size
    for step in range(2):  # the first creates the optimizer's state
        for number in range(accumulation):
            tokens = length if step and number == accumulation - 1 else 8
            with engine.micro_batch(number == accumulation - 1):
                losses_M = engine.forward(ids_BL[:, :tokens], mask_BL[:, :tokens])
                engine.backward(losses_M.sum() * 1e-6)
        engine.step(1e-5)
    said.put((loaded, peak_memory()))


def measured(config: TrainingConfig, length: int, port: int) -> list[tuple[float, float]]:
    """Return each worker's peak after loading and after training."""
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    ranks = [
        context.Process(target=worker, args=(rank, config, length, port, said))
        for rank in range(config.workers.num_workers)
    ]
    for rank in ranks:
        rank.start()
    peaks = [said.get(timeout=600) for _ in ranks]
    for rank in ranks:
        rank.join()
    return peaks


def main() -> None:
    from s2l_ray.execution.connect import WORKER_ENVIRONMENT
    from s2l_ray.models.memory import config_of, training_memory

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the results to this file too")
    parser.add_argument("--shape", choices=list(SHAPES), default="llama 300M")
    parser.add_argument("--length", type=int, default=512, help="tokens of an example")
    parser.add_argument("--cases", type=int, nargs="*", help="numbers of the cases, from 0")
    arguments = parser.parse_args()
    os.environ |= WORKER_ENVIRONMENT
    rows = []
    with TemporaryDirectory() as models:
        for number in arguments.cases if arguments.cases is not None else range(len(CASES)):
            case, folder = CASES[number], f"{models}/{CASES[number].get('dtype', 'float32')}"
            if not Path(folder).exists():
                making = (SHAPES[arguments.shape], case.get("dtype", "float32"), folder)
                maker = multiprocessing.get_context("spawn").Process(target=make_model, args=making)
                maker.start()
                maker.join()
            config = settings(folder, case)
            estimate = training_memory(config, config_of(config.model), arguments.length)
            peaks = measured(config, arguments.length, 29600 + number)
            largest = max(trained for _, trained in peaks)
            rows.append(
                {
                    "settings": ", ".join(f"{k}: {v}" for k, v in case.items()) or "defaults",
                    "estimate": estimate.on_host / 1e9,
                    "measured": largest / 1e9,
                    "ratio": estimate.on_host / largest,
                    "loaded, all": sum(loaded for loaded, _ in peaks) / 1e9,
                    "trained, all": sum(trained for _, trained in peaks) / 1e9,
                }
            )
            print(rows[-1], {k: round(v / 1e9, 2) for k, v in estimate.host.items()}, flush=True)
    print(machine.table(rows, list(rows[0])))
    if arguments.json:
        about = machine.describe()
        Path(arguments.json).write_text(json.dumps({"machine": about, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
