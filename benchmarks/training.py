"""Training compared with bare torch, TRL's SFTTrainer and the `deepspeed` launcher, on the same
batches.

    python benchmarks/training.py math_pool.jsonl

Our loop runs under Ray Train. Its peers are a bare torch loop, SFTTrainer on tokens in our order,
and for our DeepSpeed job a script under the `deepspeed` launcher.

The peers get the C library settings that a run gives its workers. A single worker trains without
DDP. `seconds` cover the steps, from before the first batch to the end of the last update.

- `speedup of ours`: our rate divided by that way's rate.
- `padding`: the share of padding among our tokens.
- `waiting`: the share of our seconds spent waiting for a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import ray
import torch
from transformers import AutoModelForCausalLM

from benchmarks import machine
from s2l_ray.config import CorpusConfig, PromptConfig, TrainingConfig
from s2l_ray.corpus.ingest import ingest
from s2l_ray.corpus.tokenization import tokenize
from s2l_ray.corpus.tokenizer import load_tokenizer, prepare_tokenizer
from s2l_ray.execution import connect as driver
from s2l_ray.models.batch import Example, pad
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import TokensView
from s2l_ray.training.batches import BatchStream
from s2l_ray.training.step import learning_rate
from s2l_ray.training.train import train

SEED = 0
SHAPE = {"model_type": "gpt_neox", "hidden_size": 256, "num_hidden_layers": 4,
         "num_attention_heads": 4, "intermediate_size": 1024,
         "max_position_embeddings": 512}  # fmt: skip


def settings(steps: int, zero_stage: int | None) -> TrainingConfig:
    workers = {"num_workers": 1, "cpus_per_worker": 2}
    if zero_stage is not None:
        workers = {"num_workers": 2, "cpus_per_worker": 1}
    return TrainingConfig.model_validate(
        {
            "model": {"architecture": SHAPE, "tokenizer_vocab": 8192},
            "max_steps": steps,
            "num_checkpoints": 1,
            "resume_every": steps,
            "global_batch_size": 32,
            "micro_batch_size": 8,
            "learning_rate": 1e-3,
            "zero_stage": zero_stage,
            "workers": workers,
        }
    )


def prepare(store: Store, path: str, config: TrainingConfig, max_length: int) -> Manifest:
    source = CorpusConfig(path=path, num_parts=8)
    examples = ingest(store, source, seed=SEED, folder="corpus", fingerprint="c")
    prepare_tokenizer(store, config.model, examples, folder="tokenizer")
    prompt = PromptConfig(template="alpaca", max_length=max_length)
    return tokenize(store, examples, tokenizer_folder="tokenizer", prompt=prompt, folder="tokens",
                    fingerprint="t")  # fmt: skip


def batches_of(store: Store, tokens: Manifest, config: TrainingConfig) -> list[list[Example]]:
    stream = BatchStream(
        lambda index: store.read_part(tokens.folder, tokens.parts[index]),
        TokensView(tokens).trainable_by_part,
        seed=SEED,
        batch_size=config.global_batch_size,
    )
    assert config.max_steps is not None
    return [list(batch) for batch in islice(stream.batches(), config.max_steps)]


def bare(folder: Path, config: TrainingConfig, loss: str) -> dict[str, Any]:
    """The loop one would write for this training alone; with DeepSpeed, one of its processes."""
    torch.set_num_threads(int(config.workers.cpus_per_worker))
    batches: list[list[Example]] = pickle.loads((folder / "batches").read_bytes())
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).train()
    module = LabelLoss(model) if loss == "label tokens" else model
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=config.weight_decay)
    rank, world, engine = 0, 1, None
    if config.zero_stage is not None:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a minute to compile
        deepspeed.init_distributed(dist_backend="gloo")
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config={
                "train_batch_size": config.global_batch_size,
                "train_micro_batch_size_per_gpu": config.micro_batch_size,
                "gradient_clipping": config.max_grad_norm,
                "zero_optimization": {"stage": config.zero_stage},
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 1 << 30,
            },
        )
    began = time.perf_counter()
    for step, batch in enumerate(batches):
        rate = learning_rate(config, step, len(batches))
        for group in (engine.optimizer if engine else optimizer).param_groups:
            group["lr"] = rate
        labels = sum(int(mask.sum()) for _, mask in batch)
        mine = sorted(batch, key=lambda example: len(example[0]))[rank::world]
        for start in range(0, len(mine), config.micro_batch_size):
            micro_batch = mine[start : start + config.micro_batch_size]
            input_ids, mask = pad(micro_batch, torch.device("cpu"))
            if loss == "label tokens":
                total = (engine or module)(input_ids, mask).sum()
            else:
                wanted = torch.where(mask, input_ids, -100)
                found = (engine or module)(input_ids=input_ids, labels=wanted).loss
                total = found * int(mask.sum())
            if engine:
                engine.backward(total * (world / labels), scale_wrt_gas=False)
                engine.step()
            else:
                (total / labels).backward()
        if engine is None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "loss": float(total) / int(mask.sum())}


def sft(folder: Path, config: TrainingConfig) -> dict[str, Any]:
    """TRL's SFTTrainer on the same micro-batches."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(int(config.workers.cpus_per_worker))
    batches: list[list[Example]] = pickle.loads((folder / "batches").read_bytes())
    rows = [each for batch in batches for each in sorted(batch, key=lambda each: len(each[0]))]
    dataset = Dataset.from_list(
        [
            {"input_ids": ids.tolist(), "labels": torch.where(mask, ids, -100).tolist()}
            for ids, mask in ((torch.as_tensor(ids), torch.as_tensor(mask)) for ids, mask in rows)
        ]
    )

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_train_begin(self, *event: Any, **about: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *event: Any, **about: Any) -> None:
            self.ended = time.perf_counter()

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset or self.train_dataset)

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(each["input_ids"]) for each in examples)
        filled = {
            name: torch.tensor(
                [each[name] + [fill] * (longest - len(each[name])) for each in examples]
            )
            for name, fill in (("input_ids", 0), ("labels", -100))
        }
        lengths = torch.tensor([len(each["input_ids"]) for each in examples])
        return filled | {"attention_mask": (torch.arange(longest) < lengths[:, None]).long()}

    clock = Clock()
    trainer = InOrder(
        str(folder / "model"),
        SFTConfig(
            output_dir=str(folder / "sft"),
            per_device_train_batch_size=config.micro_batch_size,
            gradient_accumulation_steps=config.global_batch_size // config.micro_batch_size,
            num_train_epochs=1,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            dataset_kwargs={"skip_prepare_dataset": True},
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[clock],
    )
    trainer.train()
    assert trainer.state.global_step == len(batches)
    return {"seconds": clock.ended - clock.began}


def run_bare(folder: Path, config: TrainingConfig, loss: str) -> float:
    """Seconds of the bare loop in its own process (with DeepSpeed, two processes)."""
    (folder / "config.json").write_text(config.model_dump_json())
    command = [str(Path(__file__).resolve()), str(folder), "--bare", loss]
    start = [sys.executable]
    if config.zero_stage is not None:
        launcher = Path(sys.executable).with_name("deepspeed")
        start = [str(launcher), "--num_accelerators", "2", "--master_port", "29517"]
    env = os.environ | driver.WORKER_ENVIRONMENT  # as our workers have it
    env |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(start + command, env=env, capture_output=True, text=True, check=False)
    (folder / "log").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return float(json.loads((folder / "result.json").read_text())["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="JSON lines")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    parser.add_argument(
        "--bare", choices=["label tokens", "all tokens", "SFTTrainer"], help=argparse.SUPPRESS
    )
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # of DeepSpeed's launcher
    arguments = parser.parse_args()
    if arguments.bare:
        folder = Path(arguments.corpus)
        config = TrainingConfig.model_validate_json((folder / "config.json").read_text())
        sft_wanted = arguments.bare == "SFTTrainer"
        result = sft(folder, config) if sft_wanted else bare(folder, config, arguments.bare)
        if os.environ.get("RANK", "0") == "0":
            (folder / "result.json").write_text(json.dumps(result))
        return

    driver.quiet()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False,
             runtime_env={"env_vars": driver.WORKER_ENVIRONMENT})  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name, "bare"), Store(Path(name, "run"))
        folder.mkdir()
        plain = settings(arguments.steps, None)
        tokens = prepare(store, arguments.corpus, plain, arguments.max_length)
        batches = batches_of(store, tokens, plain)
        (folder / "batches").write_bytes(pickle.dumps(batches))
        count = sum(len(ids) for batch in batches for ids, _ in batch)
        tokenizer = load_tokenizer(store, "tokenizer")
        model = initial_model(plain.model, tokenizer, seed=SEED)
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")  # SFTTrainer wants one
        print(f"{len(batches)} batches, {count:,} tokens, {model.num_parameters():,} parameters")
        for zero_stage in (None, 2):
            config = settings(arguments.steps, zero_stage)
            peer = "bare torch" if zero_stage is None else "deepspeed launcher"
            ways = {f"{peer}, our loss": "label tokens", f"{peer}, the model's loss": "all tokens"}
            if zero_stage is None:
                ways["TRL's SFTTrainer"] = "SFTTrainer"
            seconds: dict[str, list[float]] = {name: [] for name in ("ours", *ways)}
            infos = []
            for number in range(arguments.rounds):
                info = train(store, tokens, config, tokenizer_folder="tokenizer", seed=SEED,
                             folder=f"{peer}-{number}", fingerprint="f", label=peer,
                             ).info  # fmt: skip
                assert info["tokens"] == count
                infos.append(info)
                seconds["ours"].append(info["seconds"])
                for way, loss in ways.items():
                    seconds[way].append(run_bare(folder, config, loss))
            ours = statistics.median(seconds["ours"])
            for way, taken in seconds.items():
                median = statistics.median(taken)
                row = {"training": "plain, 1 worker" if zero_stage is None else "ZeRO-2, 2 workers",
                       "way": way, "seconds": median, "tokens/s": count / median,
                       "speedup of ours": median / ours}  # fmt: skip
                if way == "ours":
                    row["padding"] = 1 - count / infos[-1]["padded_tokens"]
                    waiting = [info["waiting"] / info["seconds"] for info in infos]
                    row["waiting"] = statistics.median(waiting)
                rows.append(row)
            machine.write(arguments.json, vars(arguments) | {"tokens": count}, rows)
    ray.shutdown()
    columns = ["training", "way", "seconds", "tokens/s", "speedup of ours", "padding", "waiting"]
    print(machine.table(rows, columns))


if __name__ == "__main__":
    main()
