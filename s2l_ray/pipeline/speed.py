"""How fast this machine trains and scores, measured for a few seconds, without Ray.

Real steps run in processes like the run's workers: as many beside one another as the run has, if
they fit, with the same engine, batches and threads. Weights are random.
"""

from __future__ import annotations

import os
import queue
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import multiprocessing
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.config import TrainingConfig, TrajectoriesConfig
from s2l_ray.execution.connect import WORKER_ENVIRONMENT, inherited
from s2l_ray.models.batch import Example
from s2l_ray.models.loading import no_tf32
from s2l_ray.models.loss import LabelLoss
from s2l_ray.scoring.scorer import CPU_TOKENS_PER_BATCH, GPU_TOKENS_PER_BATCH, score_labelled
from s2l_ray.training.batches import grouped_by_length
from s2l_ray.training.engines import make_engine
from s2l_ray.training.step import StepBatch, share_of, train_step

SECONDS = 3.0  # of each measurement, after a warm-up
WARM_UP = 2  # steps; the second is timed
LONGEST = 6.0  # seconds that a step may probably take; longer ones are measured in part
SLOW = 1e10  # operations/s that any process makes, to tell how long a step may take
SCORED = 256  # examples that are scored together
PATIENCE = 300.0  # seconds for processes to start and to measure


class Speed(NamedTuple):
    """Of one process, when all of them work: tokens/s of training and of scoring, seconds of an
    optimizer step, and seconds until the process was ready to train."""

    training: float
    scoring: float
    step: float
    start: float
    processes: int


class Trial(NamedTuple):
    """What to measure. model: config.json as a dict. operations: of a token in training."""

    training: TrainingConfig
    scoring: TrajectoriesConfig
    model: dict[str, Any]
    examples: list[Example]
    operations: float


def processes_for(training: TrainingConfig, copies: int) -> tuple[int, int]:
    """Return how many workers of a training fit this machine, and how many such trainings."""
    workers = training.workers
    if workers.gpus_per_worker:
        room = torch.cuda.device_count()
    else:
        room = max(1, int(len(os.sched_getaffinity(0)) // workers.cpus_per_worker))
    world = max(1, min(workers.num_workers, room))
    while training.global_batch_size % (world * training.micro_batch_size):
        world -= 1
    return world, max(1, min(copies, room // world))


def measure(trial: Trial, copies: int = 1) -> Speed:
    """Measure a training's workers, with `copies` trainings side by side.

    ValueError if the processes fail, with the reason of one.
    """
    world, copies = processes_for(trial.training, copies)
    total = world * copies
    spawn = multiprocessing.get_context("spawn")
    results, barrier = spawn.Queue(), spawn.Barrier(total)
    threads = max(1, int(trial.training.workers.cpus_per_worker))
    variables = WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder, inherited(variables):
        began = time.time()
        processes = [
            spawn.Process(
                target=_work,
                args=(trial, number % world, world, f"{folder}/{number // world}", began,
                      barrier, results),
                daemon=True,
            )
            for number in range(total)
        ]  # fmt: skip
        for process in processes:
            process.start()
        try:
            found = [_result(results, processes) for _ in processes]
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    training, scoring, step, start = (float(np.mean(each)) for each in zip(*found, strict=True))
    return Speed(training, scoring, step, start, total)


def _result(results: Any, processes: list[Any]) -> tuple[float, ...]:
    """Wait for a process's result. ValueError if one fails, or takes too long."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            found = results.get(timeout=1)
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise ValueError("a process that measured the speed died") from None
            continue
        if isinstance(found, str):
            raise ValueError(f"the speed could not be measured: {found}")
        return found
    raise ValueError(f"the speed could not be measured in {PATIENCE:.0f} s")


def _work(
    trial: Trial, rank: int, world: int, place: str, began: float, barrier: Any, results: Any
) -> None:
    with open(os.devnull, "w") as nowhere:  # libraries warn and log; errors go through `results`
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    try:
        results.put(_measured(trial, rank, world, place, began, barrier))
    except Exception as error:  # of any library: the parent tells it
        barrier.abort()
        results.put(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _measured(
    trial: Trial, rank: int, world: int, place: str, began: float, barrier: Any
) -> tuple[float, float, float, float]:
    training, on_gpu = trial.training, trial.training.workers.gpus_per_worker > 0
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, int(training.workers.cpus_per_worker)))
    no_tf32()
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{place}", rank=rank, world_size=world
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**trial.model)).float()
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss = LabelLoss(model, packing=training.packing)
    engine = make_engine(loss, training, device, world)
    batches = _batches(trial, rank, world)
    start = time.time() - began
    barrier.wait(PATIENCE)

    def steps(number: int) -> tuple[float, int]:
        """Return the seconds of so many steps, and the tokens of this worker's share."""
        before, tokens = time.perf_counter(), 0
        for _ in range(number):
            batch = next(batches)
            train_step(engine, batch, 1e-5, device=device)
            tokens += sum(_tokens(each.input_ids_BL) for each in batch.micro_batches)
        return time.perf_counter() - before, tokens

    for _ in range(WARM_UP):
        warm, _ = steps(1)
    wanted = torch.tensor([min(200.0, max(1.0, SECONDS / warm))], device=device)
    dist.all_reduce(wanted, dist.ReduceOp.MAX)
    number = round(wanted.item())
    seconds, tokens = steps(number)
    barrier.wait(PATIENCE)
    rate = _scoring(trial, loss, device)
    dist.destroy_process_group()
    return tokens / seconds, rate, seconds / number, start


def _batches(trial: Trial, rank: int, world: int) -> Iterator[StepBatch]:
    """Yield this worker's shares of global batches as a training makes them, without end.

    A step that would take long is cut to its first micro-batches.
    """
    training, examples = trial.training, trial.examples
    size = training.global_batch_size
    if len(examples) < size:
        examples = [examples[number % len(examples)] for number in range(size)]
    lengths = np.array([len(ids) for ids, _ in examples])
    share = training.micro_batch_size * float(lengths.mean()) * trial.operations / SLOW
    most = max(1, int(LONGEST / share))
    per_row = training.micro_batch_size * int(lengths.max()) if training.packing else None
    for seed in count():
        random = np.random.default_rng(seed)
        order = grouped_by_length(lengths, random, batch_size=size, first=0)
        for first in range(0, len(order) - size + 1, size):
            batch = share_of(
                [examples[place] for place in order[first : first + size]],
                micro_batch_size=training.micro_batch_size,
                rank=rank,
                world=world,
                tokens_per_row=per_row,
            )
            yield batch._replace(micro_batches=batch.micro_batches[:most])


def _tokens(input_ids_BL: torch.Tensor) -> int:
    """Padding counts: there is next to none, as batches have examples of similar lengths."""
    return input_ids_BL.numel()


def _scoring(trial: Trial, loss: LabelLoss, device: torch.device) -> float:
    settings, examples = trial.scoring, trial.examples
    default = GPU_TOKENS_PER_BATCH if device.type == "cuda" else CPU_TOKENS_PER_BATCH
    loss = loss.to(getattr(torch, settings.dtype))
    done, at, before = 0, 0, time.perf_counter()
    while (seconds := time.perf_counter() - before) < SECONDS:
        some = [examples[(at + number) % len(examples)] for number in range(SCORED)]
        at += SCORED
        labels = [int(mask[1:].sum()) for _, mask in some]
        table = pa.table({"example_id": np.arange(len(some)), "num_label_tokens": labels})
        score_labelled(
            (table, some), loss, tokens_per_batch=settings.tokens_per_batch or default, signals=()
        )
        done += sum(len(ids) for ids, _ in some)
    return done / seconds
