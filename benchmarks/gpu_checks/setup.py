"""What the checks share: models of known shapes with random weights, tokens, times and rates."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import TrainingConfig
from s2l_ray.models.batch import Example, examples_of
from s2l_ray.store.schemas import TOKENS

Row = dict[str, Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

SHAPES: dict[str, dict[str, Any]] = {
    "Pythia-70M": {"model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 512,
                   "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048,
                   "max_position_embeddings": 2048},
    "Pythia-410M": {"model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 1024,
                    "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
                    "max_position_embeddings": 2048},
    "Llama-1B": {"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048,
                 "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
                 "intermediate_size": 8192, "max_position_embeddings": 8192,
                 "tie_word_embeddings": True},
    "Phi-2": {"model_type": "phi", "vocab_size": 51200, "hidden_size": 2560,
              "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 10240,
              "max_position_embeddings": 2048},
}  # fmt: skip
SMALL = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 128, "max_position_embeddings": 512}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """The device, "cuda" or "cpu", and whether shapes are small."""

    device: str
    small: bool

    @property
    def place(self) -> torch.device:
        return torch.device(self.device)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def shape(self, name: str) -> dict[str, Any]:
        shape = SHAPES[name]
        if not self.small:
            return shape
        small = shape | SMALL
        return small | ({"num_key_value_heads": 2} if "num_key_value_heads" in shape else {})

    def model(self, name: str, dtype: str = "fp32") -> Any:
        """A model with random weights, made on the device."""
        torch.manual_seed(0)
        fields = dict(self.shape(name))
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        with self.place:
            return AutoModelForCausalLM.from_config(config).to(DTYPES[dtype]).eval()

    def tokens(self, name: str, count: int, longest: int = 512, seed: int = 0) -> pa.Table:
        """Random tokens. Lengths spread as those of instructions do; the last 60% are labels."""
        if self.small:
            count, longest = max(2, count // 8), min(longest, 64)
        random, vocab = np.random.default_rng(seed), self.shape(name)["vocab_size"]
        lengths = random.lognormal(np.log(longest) - 1.2, 0.6, count)
        lengths = np.clip(lengths, 8, longest).astype(int)
        rows = []
        for number, length in enumerate(lengths):
            labels = int(0.6 * length)
            mask = [False] * (length - labels) + [True] * labels
            ids = random.integers(0, vocab, length).tolist()
            rows.append([number, ids, mask, labels, False])
        columns = [list(column) for column in zip(*rows, strict=True)]
        arrays = [pa.array(c, field.type) for c, field in zip(columns, TOKENS, strict=True)]
        return pa.Table.from_arrays(arrays, schema=TOKENS)

    def batches(self, name: str, steps: int, config: TrainingConfig) -> list[list[Example]]:
        """Global batches for so many steps."""
        size = config.global_batch_size
        tokens = self.tokens(name, steps * size * (8 if self.small else 1))
        examples = examples_of(tokens)
        return [examples[first : first + size] for first in range(0, steps * size, size)]

    def training(self, name: str, **changes: Any) -> TrainingConfig:
        sizes = {"global_batch_size": 8, "micro_batch_size": 4} if self.small else {
            "global_batch_size": 32, "micro_batch_size": 8}  # fmt: skip
        model = {"architecture": self.shape(name), "tokenizer": "none"}
        if changes.pop("dtype", "fp32") == "bf16":
            model["dtype"] = "bfloat16"
        return TrainingConfig.model_validate({"model": model} | sizes | changes)

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[..., Any], *args: Any, **named: Any) -> float:
        """How long `work(*args, **named)` takes."""
        self.synchronize()
        began = time.perf_counter()
        work(*args, **named)
        self.synchronize()
        return time.perf_counter() - began

    def peak_gib(self) -> float:
        """Device memory since the process began; on a CPU the process's own."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def rate(self, dtype: str, at_least: float = 0.3) -> float:
        """Operations per second in a large matrix product. dtype: fp32, tf32 or bf16."""
        if self.on_gpu:
            torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        size = 8192 if self.on_gpu else 512 if self.small else 2048
        kind = DTYPES.get(dtype, torch.float32)
        a, b = (torch.randn(size, size, device=self.device).to(kind) for _ in range(2))
        taken = [self.seconds(F.linear, a, b) for _ in range(3)][1:]
        while sum(taken) < at_least:
            taken.append(self.seconds(F.linear, a, b))
        return 2 * size**3 / statistics.median(taken)


def count_of(batches: list[list[Example]]) -> int:
    """Tokens in batches."""
    return sum(len(ids) for batch in batches for ids, _ in batch)
