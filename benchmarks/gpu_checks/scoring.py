"""Checks of product rates, losses, scoring and generation."""

from __future__ import annotations

import copy
import os
import time

import numpy as np
import pyarrow as pa
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_checks.setup import DTYPES, Row, Setup
from benchmarks.scoring import products
from s2l_ray.evaluation.generation import generate
from s2l_ray.models.loading import no_tf32
from s2l_ray.models.loss import LabelLoss
from s2l_ray.scoring.scorer import CPU_TOKENS_PER_BATCH, GPU_TOKENS_PER_BATCH, score_table

TOLERANCE = {"fp32": 1e-5, "bf16": 5e-3}  # of a loss, times max(1, loss)
FLOOR = 0.6  # share of the product floor that scoring should reach, at 410M in bf16


def rates(setup: Setup) -> list[Row]:
    """The rate of a large product in each precision."""
    kinds = ["fp32", "tf32", "bf16"] if setup.on_gpu else ["fp32", "bf16"]
    return [{"case": kind, "TFLOP/s": setup.rate(kind, 0.5) / 1e12} for kind in kinds]


def losses(setup: Setup) -> list[Row]:
    """Losses on the device against fp32 on the CPU with the same weights, and a batch of one
    against large batches."""
    counts = {"Pythia-70M": 64, "Pythia-410M": 32, "Llama-1B": 8, "Phi-2": 4}
    return [
        compared(setup, name, dtype, count) for name, count in counts.items() for dtype in DTYPES
    ]


def compared(setup: Setup, name: str, dtype: str, count: int) -> Row:
    no_tf32()
    model, tokens = setup.model(name, dtype), setup.tokens(name, count)
    large, single = (losses_of(model, tokens, at_once) for at_once in (32_768, 1))
    cpu = losses_of(copy.deepcopy(model).to("cpu", torch.float32), tokens, 2048)
    found = {
        "from the CPU's fp32": difference(large, cpu),
        "batch of 1 from 32k tokens": difference(single, large),
    }
    goal = f"at most {TOLERANCE[dtype]:g} × max(1, loss)"
    met = max(found.values()) <= TOLERANCE[dtype]
    return {"case": f"{name}, {dtype}", **found, "goal": goal, "met": met}


def losses_of(model: torch.nn.Module, tokens: pa.Table, at_once: int) -> np.ndarray:
    return score_table(tokens, LabelLoss(model), tokens_per_batch=at_once)["loss"].to_numpy()


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((np.abs(found - wanted) / np.maximum(1, wanted)).max())


def scoring(setup: Setup) -> list[Row]:
    """Tokens per second of the scoring stage's work, beside the time of its products alone."""
    rows = []
    cases = [("Pythia-70M", "fp32", 4096), ("Pythia-70M", "bf16", 8192),
             ("Pythia-410M", "fp32", 1024), ("Pythia-410M", "bf16", 4096),
             ("Llama-1B", "bf16", 2048), ("Phi-2", "bf16", 1024)]  # fmt: skip
    at_once = GPU_TOKENS_PER_BATCH if setup.on_gpu else CPU_TOKENS_PER_BATCH
    for name, dtype, count in cases:
        no_tf32()
        if setup.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        model, tokens = setup.model(name, dtype), setup.tokens(name, count)
        loss = LabelLoss(model)
        score_table(tokens.slice(0, max(1, len(tokens) // 8)), loss, tokens_per_batch=at_once)
        rate = setup.rate(dtype)
        no_tf32()
        taken = setup.seconds(score_table, tokens, loss, tokens_per_batch=at_once)
        number = sum(len(ids) for ids in tokens["input_ids"])
        floor = products(model, tokens) / rate / taken
        aimed = (name, dtype) == ("Pythia-410M", "bf16") and setup.on_gpu and not setup.small
        rows.append(
            {
                "case": f"{name}, {dtype}",
                "tokens/s": number / taken,
                "share of floor": floor,
                "busy": busy(setup, loss, tokens, at_once),
                "peak GiB": setup.peak_gib(),
            }
            | ({"goal": f"{FLOOR:.0%} of the floor", "met": floor >= FLOOR} if aimed else {})
        )
    return rows


def busy(setup: Setup, loss: LabelLoss, tokens: pa.Table, at_once: int) -> float:
    """The share of the time in which the device works: kernels on a GPU, threads on a CPU."""
    some = tokens.slice(0, max(1, len(tokens) // 4))
    if not setup.on_gpu:
        began, before = time.perf_counter(), time.process_time()
        score_table(some, loss, tokens_per_batch=at_once)
        spent = (time.process_time() - before) / (time.perf_counter() - began)
        return spent / min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        taken = setup.seconds(score_table, some, loss, tokens_per_batch=at_once)
    kernels = sum(event.self_device_time_total for event in seen.key_averages())
    return kernels / 1e6 / taken


def generation(setup: Setup) -> list[Row]:
    """Answers in batches against answers one by one, in fp32."""
    no_tf32()
    name, new = "Pythia-410M", 8 if setup.small else 64
    model = setup.model(name)
    prompts = [ids.as_py()[:48] for ids in setup.tokens(name, 32)["input_ids"]]
    found, taken = dict[str, list[list[int]]](), dict[str, float]()
    generate(model, prompts[:1], ends=[0], max_new_tokens=2)

    def answer(way: str, at_once: int) -> None:
        found[way] = generate(model, prompts, ends=[0], max_new_tokens=new, tokens_at_once=at_once)

    for way, at_once in (("batched", 8192), ("single", 1)):
        taken[way] = setup.seconds(answer, way, at_once)
    same = sum(a == b for a, b in zip(found["batched"], found["single"], strict=True))
    return [
        {
            "case": f"{name}, fp32, {len(prompts)} prompts",
            "equal answers": same,
            "speedup of batches": taken["single"] / taken["batched"],
            "new tokens/s": sum(map(len, found["batched"])) / taken["batched"],
            "goal": "all equal",
            "met": same == len(prompts),
        }
    ]
