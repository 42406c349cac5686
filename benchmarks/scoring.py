"""Losses of examples under one model: ours, the official code's, padded batches, products alone.

    python benchmarks/scoring.py CORPUS.jsonl

The model has Pythia-70M's shape and random weights. `--examples` examples are drawn from the JSON
lines and tokenised by a BPE trained on them. Every way runs once per round, in one process, with
the same threads and the C library settings that a run gives its workers; medians are shown.

- `products at peak`: the time of the necessary matrix products (every layer, causal attention, the
  output head at label tokens) at the best rate of a 2048 x 2048 product in this dtype.
- `products sustained`: the same at the mean rate over some seconds, which neighbours and heat lower
  for the ways too. Both rates are measured before and after each way.
- `share of peak`, `share of sustained`: a way's share of these rates.
- `difference`: the largest difference of a loss from the official fp32 loss, relative to
  max(1, loss).
- `padding`: the share of padding in our batches; small with many examples, because examples of
  equal length share a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from s2l_ray.execution.connect import WORKER_ENVIRONMENT

if __name__ == "__main__" and WORKER_ENVIRONMENT.items() - os.environ.items():
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | WORKER_ENVIRONMENT)

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedTokenizerFast

from benchmarks import machine
from s2l_ray.config import CorpusConfig, PromptConfig
from s2l_ray.corpus.rows import BadRow, Example
from s2l_ray.corpus.shapes import parse, row_settings_of
from s2l_ray.corpus.tokenization import encode_table
from s2l_ray.models.batch import token_batches
from s2l_ray.models.loss import LabelLoss
from s2l_ray.scoring import scorer
from s2l_ray.store.schemas import EXAMPLES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCH = 8  # of the padded way; transformers' default in evaluation


def pythia(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    shape = {"vocab_size": 50304, "hidden_size": 512, "num_hidden_layers": 6,
             "num_attention_heads": 8, "intermediate_size": 2048}  # fmt: skip
    config = GPTNeoXConfig(**shape, max_position_embeddings=2048, rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def examples_of(path: str) -> Iterator[tuple[str, Example]]:
    """Examples of a JSON lines file, without the rows that a run would reject."""
    records = []
    with open(path, "rb") as file:
        for line in file:
            with suppress(ValueError):
                records.append(json.loads(line))
    settings = row_settings_of(CorpusConfig(path=path))
    for record in records:
        with suppress(BadRow):
            yield parse(record, settings)


def tokens_of(path: str, count: int, max_length: int) -> pa.Table:
    """Tokens of `count` random examples of a JSON lines file (seed 0)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    parsed = list(examples_of(path))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=16384, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator((turn["text"] for _, each in parsed for turn in each.turns), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")
    drawn = np.random.default_rng(0).permutation(len(parsed))[:count]
    rows = [
        {"example_id": i, "source": parsed[n][0], "file": path, "row": int(n),
         "turns": parsed[n][1].turns}
        for i, n in enumerate(drawn)
    ]  # fmt: skip
    schema = pa.schema([field for field in EXAMPLES if field.name in rows[0]])
    examples = pa.Table.from_pylist(rows, schema=schema)
    tokens = encode_table(examples, PromptConfig(max_length=max_length), tokenizer)
    return tokens.filter(pa.compute.greater(tokens["num_label_tokens"], 0))


def official(model: Any, tokens: pa.Table) -> np.ndarray:
    """One example at a time, the logits of all its tokens, the model's own loss."""
    losses = []
    for ids, mask in zip(tokens["input_ids"], tokens["loss_mask"], strict=True):
        input_ids = torch.tensor([ids.as_py()])
        labels = torch.where(torch.tensor([mask.as_py()]), input_ids, -100)
        with torch.no_grad():
            losses.append(float(model(input_ids=input_ids, labels=labels).loss))
    return np.array(losses)


def padded(model: Any, tokens: pa.Table) -> np.ndarray:
    """Batches in the order of the corpus, padded to their longest, the logits of all tokens."""
    losses = []
    for first in range(0, len(tokens), BATCH):
        rows = tokens.slice(first, BATCH).to_pylist()
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        labels = torch.full((len(rows), longest), -100)
        attention = torch.zeros(len(rows), longest, dtype=torch.int64)
        for n, row in enumerate(rows):
            ids, mask = torch.tensor(row["input_ids"]), torch.tensor(row["loss_mask"])
            input_ids[n, : len(ids)] = ids
            attention[n, : len(ids)] = 1
            labels[n, : len(ids)] = torch.where(mask, ids, -100)
        with torch.no_grad():
            logits = model(input_ids=input_ids, attention_mask=attention).logits.float()
            wanted = F.pad(labels, (0, 1), value=-100)[:, 1:]  # flat, as the models' own loss is
            each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        losses += (each.view_as(wanted).sum(1) / (wanted != -100).sum(1)).tolist()
    return np.array(losses)


def ours(model: Any, tokens: pa.Table) -> np.ndarray:
    return scorer.score_table(tokens, LabelLoss(model))["loss"].to_numpy()


def padding_of(tokens: pa.Table) -> float:
    """Share of padding in our batches."""
    examples = scorer.examples_of(tokens)
    lengths = np.array([len(ids) for ids, _ in examples])
    batches = token_batches(examples, scorer.CPU_TOKENS_PER_BATCH)
    return 1 - float(lengths.sum() / sum(len(rows) * lengths[rows].max() for rows in batches))


def products(model: Any, tokens: pa.Table) -> float:
    """Floating-point operations of the matrix products that the losses need."""
    config = model.config
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    )
    lengths = np.array([len(ids) for ids in tokens["input_ids"]], float)
    labels = float(np.sum(tokens["num_label_tokens"].to_numpy()))
    attention = config.num_hidden_layers * 2 * 2 * config.hidden_size * (lengths**2 / 2).sum()
    head = model.get_output_embeddings().weight.numel()
    return 2 * linear * lengths.sum() + attention + 2 * head * labels


def rates(dtype: torch.dtype, size: int = 2048, seconds: float = 3.0) -> tuple[float, float]:
    """Operations per second in a large matrix product: the best of five, and the mean over
    `seconds`. The product is that of a linear layer: in bf16, a @ b takes 9 times as long on a CPU
    without bf16 instructions."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    taken: list[float] = []
    while len(taken) < 5 or sum(taken) < seconds:
        began = time.perf_counter()
        torch.nn.functional.linear(a, b)
        taken.append(time.perf_counter() - began)
    return 2 * size**3 / min(taken[:5]), 2 * size**3 / statistics.mean(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", help="JSON lines")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES),
                        help="dtypes of all ways but the official one")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--profile", action="store_true", help="also show where ours spends its time"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tokens = tokens_of(arguments.corpus, arguments.examples, arguments.max_length)
    count = sum(len(ids) for ids in tokens["input_ids"])
    labels = int(np.sum(tokens["num_label_tokens"].to_numpy()))
    print(f"{len(tokens):,} examples, {count:,} tokens, {labels:,} of them labels, "
          f"{arguments.threads} threads", flush=True)  # fmt: skip
    models = {name: pythia().to(dtype) for name, dtype in DTYPES.items()}
    ways = {("official", "fp32"): official} | {
        (way, name): run
        for name in DTYPES
        if name in arguments.dtypes
        for way, run in (("padded", padded), ("ours", ours))
    }
    work = products(models["fp32"], tokens)
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    losses: dict[tuple[str, str], np.ndarray] = {}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for _, name in ways}
    warm = tokens.slice(0, BATCH)
    for key, run in ways.items():
        run(models[key[1]], warm)
    for _ in range(arguments.rounds):
        for (way, name), run in ways.items():
            measured[name].append(rates(DTYPES[name]))
            began = time.perf_counter()
            losses[way, name] = run(models[name], tokens)
            seconds[way, name].append(time.perf_counter() - began)
            measured[name].append(rates(DTYPES[name]))
    wanted = losses["official", "fp32"]
    slowest = statistics.median(seconds["official", "fp32"])
    rows = []
    best, mean = ({name: statistics.median(pair[i] for pair in measured[name])
                   for name in measured} for i in range(2))  # fmt: skip
    for name in measured:
        floors = {
            ("products at peak", name): work / best[name],
            ("products sustained", name): work / mean[name],
        }
        medians = floors | {key: statistics.median(taken) for key, taken in seconds.items()}
        for (way, dtype), median in medians.items():
            if dtype != name:
                continue
            row = {
                "way": way,
                "dtype": dtype,
                "seconds": median,
                "tokens/s": count / median,
                "speedup over official": slowest / median,
                "share of peak": work / best[name] / median,
                "share of sustained": work / mean[name] / median,
            }
            if (way, dtype) in losses:
                off = np.abs(losses[way, dtype] - wanted) / np.maximum(1, wanted)
                row["difference"] = float(off.max())
            rows.append(row)
    print(machine.table(rows, list(dict.fromkeys(column for row in rows for column in row))))
    if arguments.profile:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            ours(models[arguments.dtypes[0]], tokens)
        print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
    settings = {"corpus": Path(arguments.corpus).name, "max_length": arguments.max_length,
                "examples": len(tokens), "tokens": count, "label_tokens": labels,
                "threads": arguments.threads, "rounds": arguments.rounds, "flops": work,
                "padding": padding_of(tokens), "rates": best, "sustained rates": mean}  # fmt: skip
    machine.write(arguments.json, settings, rows)


if __name__ == "__main__":
    main()
