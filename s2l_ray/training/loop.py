"""What each Ray Train worker runs: the one loop of fine-tuning, from batches to checkpoints.

The learning rate, the data order and the random numbers are functions of the step, so a resume
point is weights, optimizer moments and the step. W workers.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from s2l_ray.config import TrainingConfig
from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.models.batch import Example, pad
from s2l_ray.models.loading import explain_out_of_memory, initial_model, load_model, no_tf32
from s2l_ray.models.loss import LabelLoss
from s2l_ray.models.properties import learned_positions, steady_positions
from s2l_ray.store import Manifest, Store
from s2l_ray.store.preflight import check_node
from s2l_ray.store.scratch import working_folder
from s2l_ray.training.batches import BatchStream
from s2l_ray.training.checkpoints import checkpoint_name, checkpoint_steps
from s2l_ray.training.engines import make_engine
from s2l_ray.training.resume import last_resume_point, resume_name, resume_point, resume_points

HISTORY_POINTS = 500  # of the training curve

LESS_MEMORY = (
    "lower micro_batch_size, which goes on from the last resume point, or set "
    "gradient_checkpointing or a higher zero_stage"
)

LESS_TO_HOLD = "set a higher zero_stage with more workers, or offload_optimizer"
NOTICE_SECONDS = 5.0  # between questions whether a node is about to go; all workers wait for each


def run(job: dict[str, Any]) -> None:
    """Train to the last step, from the last resume point on; `job` is what training.train made."""
    store: Store = job["store"]
    check_node(store)
    tokens: Manifest = job["tokens"]
    config: TrainingConfig = job["config"]
    folder, steps, seed = job["folder"], job["steps"], job["seed"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.workers.cpus_per_worker)))
    no_tf32()

    tokenizer = load_tokenizer(store, job["tokenizer_folder"])
    point, state = last_resume_point(store, folder)
    resume = store.download(folder, "resume", point) if point else None
    model = (
        load_model(resume)
        if resume
        else initial_model(config.model, tokenizer, seed=seed)  # the same on every worker
    )
    longest, positions = tokens.info.get("max_length", 0), learned_positions(model)
    if positions is not None and longest > positions:
        raise ValueError(
            f"prompt.max_length: {longest} tokens, but the model has embeddings of {positions} "
            f"positions (its max_position_embeddings)"
        )
    steady = steady_positions(model)
    if steady is not None and longest > steady:
        raise ValueError(
            f"prompt.max_length: {longest} tokens, but beyond {steady} positions the rotary "
            f"embeddings of this model go by the longest example of a batch, so that no example "
            f"would have a loss of its own; lower it to {steady}"
        )
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    module = LabelLoss(model, anew=config.gradient_checkpointing)
    with explain_out_of_memory(folder, "creating weights and optimizer", LESS_TO_HOLD):
        engine = make_engine(module, config, device, world)
        if resume and state["step"] < steps:
            engine.load(resume)
    if resume:
        if world > 1:
            dist.barrier()  # all of this node have read it
        store.discard(resume)

    stream = BatchStream(
        lambda index: store.read_part(tokens.folder, tokens.parts[index]),
        [part.stats["trainable"] for part in tokens.parts],
        seed=seed,
        batch_size=config.global_batch_size,
    )
    keep = set(checkpoint_steps(config, steps))
    every = max(1, steps // HISTORY_POINTS)
    seconds_before, began, tokens_here, recent = state["seconds"], time.monotonic(), 0, []
    fingerprint = job["fingerprint"]
    leaving = warned = False
    ask, last_asked = True, 0.0
    batches = stream.batches(state["step"])
    for step in range(state["step"], steps):
        asked = time.monotonic()
        batch = next(batches)
        state["waiting"] += time.monotonic() - asked
        torch.manual_seed(dropout_seed(seed, step, rank))
        rate = learning_rate(config, step, steps)
        if ask:
            leaving = ray.train.get_preemption_info() is not None  # the same on all workers
            last_asked = time.monotonic()
        due = time.monotonic() - last_asked > NOTICE_SECONDS
        doing = (
            f"training step {step + 1} with micro-batches of {config.micro_batch_size} examples "
            f"of up to {max(len(ids) for ids, _ in batch)} tokens"
        )
        with explain_out_of_memory(folder, doing, LESS_MEMORY):
            loss, norm, real, padded, ask = _step(
                engine, batch, config, rank, world, device, rate, due
            )
        if not math.isfinite(loss + norm):
            raise ValueError(
                f"{folder}: the training loss is {loss}, its gradient's norm {norm} at step "
                f"{step + 1} (learning rate {rate:.3g}); lower learning_rate, or look for faulty "
                "examples"
            )
        done = step + 1
        tokens_here += real
        recent.append(loss)
        state["tokens"] += real
        state["padded_tokens"] += padded
        if done % every == 0 or done == steps:
            state["history"].append([done, round(sum(recent) / len(recent), 6)])
            recent = []
        if rank == 0:
            speed = tokens_here / (time.monotonic() - began)
            job["board"].write.remote(done, f"loss {loss:.3f}, {speed:,.0f} tokens/s")
        sudden, warned = leaving and not warned, leaving  # a node goes: keep what there is, once
        if done in keep or done % config.resume_every == 0 or sudden:
            seconds = seconds_before + time.monotonic() - began
            state |= {"step": done, "workers": world, "seconds": seconds}
            _save(
                store, folder, fingerprint, engine, tokenizer, state,
                publish=done in keep, moments=done < steps,
            )  # fmt: skip
            ray.train.report({"step": done, "loss": loss})


def _step(
    engine: Any,
    batch: list[Example],
    config: TrainingConfig,
    rank: int,
    world: int,
    device: torch.device,
    rate: float,
    due: bool,
) -> tuple[float, float, int, int, bool]:
    """One optimizer step. Returns the batch's loss, the gradient's norm, the batch's tokens, its
    tokens with padding, and whether for any worker it is `due`.

    The loss of a batch is the summed label loss over the label tokens of all workers.
    """
    labels = sum(int(mask.sum()) for _, mask in batch)
    mine = sorted(batch, key=lambda example: len(example[0]))[rank::world]
    size = config.micro_batch_size
    micro_batches = [mine[i : i + size] for i in range(0, len(mine), size)]
    total = torch.zeros((), device=device)
    padded = 0
    for number, micro_batch in enumerate(micro_batches):
        last = number == len(micro_batches) - 1
        input_ids, loss_mask = pad(micro_batch, device)
        padded += input_ids.numel()
        with engine.micro_batch(last):
            losses = engine.forward(input_ids, loss_mask)
            # Gradients are averaged over workers: times W makes that a sum.
            engine.backward(losses.sum() * (world / labels))
        total += losses.detach().sum()
    norm = engine.step(rate)
    sums = torch.tensor([float(total), padded, due], dtype=torch.float64, device=device)
    if world > 1:
        dist.all_reduce(sums)
    loss_sum, padded_sum, number_due = sums.tolist()
    tokens = sum(len(ids) for ids, _ in batch)
    return loss_sum / labels, norm, tokens, int(padded_sum), number_due > 0


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine; for the update of step `step`, counted from 0.

    Hugging Face's cosine schedule, but the warm-up does not begin with an update at rate 0.
    """
    warmup = math.ceil(config.warmup_share * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Derive the seed of a worker's random numbers in a step, 64 bits. Only dropout draws any.

    numpy's SeedSequence, which never changes what it derives, mixes the three.
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def _save(
    store: Store,
    folder: str,
    fingerprint: str,
    engine: Any,
    tokenizer: Any,
    state: dict[str, Any],
    *,
    publish: bool,
    moments: bool,
) -> None:
    """Keep a checkpoint (when `publish`) and a resume point; this and the whole one before stay.

    Every worker saves its share of the optimizer (`moments`); the first also the weights, and the
    resume point's manifest last.
    """
    store.guard()
    step, point = state["step"], resume_name(state["step"], store.epoch)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if rank == 0:
        store.remove(folder, "resume", point)  # what is left of one, of another number of workers
    if world > 1:
        dist.barrier()
    with working_folder() as local:
        engine.save_model(local)  # gathers from all workers, writes on the first
        if world > 1:
            dist.barrier()  # DeepSpeed's own groups wait ten minutes at most
        if moments:
            engine.save_optimizer(local)
        if rank == 0 and publish:
            published = Path(local, "publish")
            published.mkdir()
            for file in [*Path(local).glob("*.json"), *Path(local).glob("model*.safetensors")]:
                shutil.copy(file, published)
            tokenizer.save_pretrained(published)
            name = checkpoint_name(step)
            for copied in store.upload(published, folder, name):
                path = f"{name}/{copied.file}"
                state["files"].append(asdict(replace(copied, unit=path, file=path)))
            state["checkpoints"].append(step)
        saved: list[Any] = [store.upload(local, folder, "resume", point)]
    if world > 1:
        mine, saved = saved[0], [None] * world
        dist.all_gather_object(saved, mine)  # when all have written
    if rank == 0:
        parts = [part for files in saved for part in files]
        store.commit(f"{folder}/resume/{point}", fingerprint, parts, state)
        names = resume_points(store, folder)
        older = names[names.index(point) + 1 :]
        whole = (name for name in older if _is_whole(store, folder, name))
        # Newer ones are of a training that came to nothing: it went back to before this one.
        gone = {*names} - {point, next(whole, point)}
        store.guard()
        for name in gone:
            store.remove(folder, "resume", name)


def _is_whole(store: Store, folder: str, name: str) -> bool:
    manifest, fault = resume_point(store, folder, name)
    return manifest is not None and fault is None
