"""Losses of a corpus at all checkpoints of a proxy: the scoring stage and bare forward passes.

    python benchmarks/trajectory.py math_pool.jsonl

Checkpoints are models of the proxy's shape with random weights.

- Bare: processes that read their share of the token parts once, load each checkpoint and run its
  forward passes with the same function. Only the passes are timed; the slower process counts.
- Ours: the scoring stage from its call to its manifest, with starting Ray's actors, reading,
  writing and checksums.
- `overhead`: against as many bare processes.

An actor has one CPU, the default of a run: two single-threaded actors score more than one with two
threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import machine
from benchmarks.training import prepare
from s2l_ray.config import TrainingConfig, TrajectoriesConfig
from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.execution import connect as driver
from s2l_ray.models.loading import initial_model, load_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.scoring.losses import Scoring, score
from s2l_ray.scoring.scorer import score_table
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import TokensView

CPUS = len(os.sched_getaffinity(0))
SHAPE = {"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "intermediate_size": 256,
         "max_position_embeddings": 256}  # fmt: skip


def models(store: Store, config: TrainingConfig, count: int) -> dict[int, str]:
    """Write `count` checkpoints; return step -> folder."""
    tokenizer = load_tokenizer(store, "tokenizer")
    folders = {step: f"checkpoints/checkpoint-{step:06d}" for step in range(1, count + 1)}
    for step, folder in folders.items():
        initial_model(config.model, tokenizer, seed=step).save_pretrained(store.address(folder))
    return folders


def bare(store: Store, tokens: Manifest, folders: list[str], rank: int, world: int) -> float:
    """Seconds of the forward passes in one of `world` processes."""
    torch.set_num_threads(1)
    tables = [store.read_part(tokens.folder, part) for part in tokens.parts[rank::world]]
    seconds = 0.0
    for folder in folders:
        loss = LabelLoss(load_model(store.address(folder)))
        began = time.perf_counter()
        for table in tables:
            score_table(table, loss)
        seconds += time.perf_counter() - began
    return seconds


def run_bare(store: Store, world: int) -> float:
    command = [sys.executable, __file__, store.uri, "--bare"]
    env = os.environ | driver.WORKER_ENVIRONMENT
    processes = [
        subprocess.Popen([*command, str(rank), str(world)], stdout=subprocess.PIPE, env=env)
        for rank in range(world)
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a bare process failed")
    return max(float(text) for text in printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="JSON lines")
    parser.add_argument("--examples", type=int, default=28_930)
    parser.add_argument("--checkpoints", type=int, default=12)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2], help="at most the CPUs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    parser.add_argument("--bare", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        store = Store(arguments.corpus)
        folders = [f"checkpoints/{name}" for name in store.names("checkpoints")]
        tokens = store.manifest("tokens")
        assert tokens is not None
        print(bare(store, tokens, folders, *arguments.bare))
        return

    driver.connect()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        corpus, store = Path(name, "corpus.jsonl"), Store(Path(name, "run"))
        with open(arguments.corpus) as lines, open(corpus, "w") as out:
            out.writelines(islice(lines, arguments.examples))
        config = TrainingConfig.model_validate(
            {"model": {"architecture": SHAPE, "tokenizer_vocab": 2048}, "epochs": 1}
        )
        tokens = prepare(store, str(corpus), config, max_length=256)
        scored = TokensView(tokens).trainable
        checkpoints = models(store, config, arguments.checkpoints)
        seconds: dict[tuple[int, str], list[float]] = {}
        for number in range(arguments.rounds):
            for world in [number for number in arguments.actors if number <= CPUS]:
                how = TrajectoriesConfig.model_validate({"workers": {"num_workers": world}})
                seconds.setdefault((world, "bare"), []).append(run_bare(store, world))
                began = time.perf_counter()
                scoring = Scoring(tokens, checkpoints, f"losses-{world}-{number}", "l")
                score(store, [scoring], how)
                seconds.setdefault((world, "ours"), []).append(time.perf_counter() - began)
        for (world, way), taken in seconds.items():
            median = statistics.median(taken)
            floor = statistics.median(seconds[world, "bare"])
            rows.append({"way": way, "processes": world, "seconds": median,
                         "losses/s": scored * arguments.checkpoints / median,
                         "overhead": median / floor - 1})  # fmt: skip
    print(machine.table(rows, list(rows[0])))
    machine.write(arguments.json, vars(arguments), rows)


if __name__ == "__main__":
    main()
