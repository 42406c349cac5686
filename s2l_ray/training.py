"""One fine-tuning loop on Ray Train, for proxy and target: DDP, or DeepSpeed ZeRO by config.

What a training stage leaves in its folder: `checkpoint-000500/` in Hugging Face format, a manifest
that lists their files, and while unfinished `resume/step-000500/`, from which a restart goes on.
The learning rate, the data order and the random numbers are functions of the step, so a resume
point is weights, optimizer moments and the step. W workers.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import Tensor

from s2l_ray.batches import BatchStream, Example
from s2l_ray.config import TrainingConfig
from s2l_ray.engines import make_engine
from s2l_ray.models import LabelLoss, initial_model, load_model, load_tokenizer
from s2l_ray.progress import Board, Progress, watch
from s2l_ray.store import Manifest, Part, Store

HISTORY_POINTS = 500  # of the training curve


def train(
    store: Store,
    tokens: Manifest,
    config: TrainingConfig,
    *,
    tokenizer_folder: str,
    folder: str,
    fingerprint: str,
    seed: int,
    label: str = "train",
) -> Manifest:
    """Fine-tune on the tokens and return the stage's manifest.

    info: step (the last), workers, checkpoints (their steps), history [[step, loss], …], tokens,
    padded_tokens, seconds. Goes on from the last resume point of an earlier, unfinished run.
    ValueError for what a user can mend; Ray Train's TrainingFailedError for the rest.
    """
    rows = [part.stats["trainable"] for part in tokens.parts]
    steps = num_steps(config, sum(rows))
    workers = config.workers
    before = _last_resume_point(store, folder)
    if config.zero_stage is not None and before["workers"] not in (None, workers.num_workers):
        raise ValueError(
            f"{folder}: this DeepSpeed training was stopped with {before['workers']} workers and "
            f"{workers.num_workers} cannot read its optimizer state; set workers.num_workers back"
        )
    board = Board.options(num_cpus=0).remote()  # type: ignore[attr-defined]
    job = {
        "store": store, "tokens": tokens, "config": config, "tokenizer_folder": tokenizer_folder,
        "folder": folder, "seed": seed, "steps": steps, "board": board,
    }  # fmt: skip
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.gpus_per_worker > 0,
            resources_per_worker={"CPU": workers.cpus_per_worker}
            | ({"GPU": workers.gpus_per_worker} if workers.gpus_per_worker else {}),
            accelerator_type=workers.accelerator_type,
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=store.path(folder),
            storage_filesystem=store.filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    with Progress(label, total=steps, unit="steps") as progress, watch(board, progress):
        _fit(trainer)
    state = store.read_json(folder, "resume", _step_name(steps), "state.json")
    files = [Part(**file) for file in state.pop("files")]
    manifest = store.commit(folder, fingerprint, files, state)
    store.remove(folder, "resume")
    store.remove(folder, "ray_train")
    return manifest


def _fit(trainer: TorchTrainer) -> None:
    """trainer.fit(); a ValueError raised in a worker arrives as the ValueError it was."""
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        for _, failure in sorted(error.worker_failures.items()):
            if type(failure) is ValueError:
                raise ValueError(str(failure)) from error
        raise


def num_steps(config: TrainingConfig, num_examples: int) -> int:
    return config.max_steps or math.ceil(config.epochs * num_examples / config.global_batch_size)


def checkpoint_steps(config: TrainingConfig, steps: int) -> list[int]:
    """The steps after which a checkpoint is kept; the last step always is."""
    if config.checkpoint_every is not None:
        return sorted({*range(config.checkpoint_every, steps, config.checkpoint_every), steps})
    count = config.num_checkpoints or 1
    return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step:06d}"


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine; for the update of step `step`, counted from 0.

    Hugging Face's cosine schedule, but the warm-up does not begin with an update at rate 0.
    """
    warmup = math.ceil(config.warmup_share * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _worker_loop(job: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    store: Store = job["store"]
    tokens: Manifest = job["tokens"]
    config: TrainingConfig = job["config"]
    folder, steps, seed = job["folder"], job["steps"], job["seed"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.workers.cpus_per_worker)))
    torch.backends.cuda.matmul.allow_tf32 = False

    tokenizer = load_tokenizer(store, job["tokenizer_folder"])
    state = _last_resume_point(store, folder)
    resume = store.download(folder, "resume", _step_name(state["step"])) if state["step"] else None
    model = (
        load_model(resume)
        if resume
        else initial_model(config.model, tokenizer, seed=seed)  # the same on every worker
    )
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    engine = make_engine(LabelLoss(model), config, device, world)
    if resume:
        engine.load(resume)

    stream = BatchStream(
        lambda index: store.read_part(tokens.folder, tokens.parts[index]),
        [part.stats["trainable"] for part in tokens.parts],
        seed=seed,
        batch_size=config.global_batch_size,
    )
    keep = set(checkpoint_steps(config, steps))
    every = max(1, steps // HISTORY_POINTS)
    seconds_before, began, tokens_here, recent = state["seconds"], time.monotonic(), 0, []
    batches = stream.batches(state["step"])
    for step in range(state["step"], steps):
        batch = next(batches)
        torch.manual_seed(hash((seed, step, rank)))  # dropout, where a model has it
        rate = learning_rate(config, step, steps)
        loss, norm, real, padded = _step(engine, batch, config, rank, world, device, rate)
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
        if done in keep or done % config.resume_every == 0:
            seconds = seconds_before + time.monotonic() - began
            state |= {"step": done, "workers": world, "seconds": seconds}
            _save(store, folder, engine, tokenizer, state, rank, publish=done in keep)
            ray.train.report({"step": done, "loss": loss})


def _step(
    engine: Any,
    batch: list[Example],
    config: TrainingConfig,
    rank: int,
    world: int,
    device: torch.device,
    rate: float,
) -> tuple[float, float, int, int]:
    """One optimizer step. Returns the batch's loss, the gradient's norm, the batch's tokens, and
    its tokens with padding.

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
    sums = torch.tensor([float(total), float(padded)], dtype=torch.float64, device=device)
    if world > 1:
        dist.all_reduce(sums)
    loss_sum, padded_sum = sums.tolist()
    return loss_sum / labels, norm, sum(len(ids) for ids, _ in batch), int(padded_sum)


def pad(examples: list[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """input_ids int64 [B, L] padded with 0 on the right, and loss_mask bool [B, L]."""
    longest = max(len(ids) for ids, _ in examples)
    input_ids_BL = torch.zeros(len(examples), longest, dtype=torch.int64)
    loss_mask_BL = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, (ids, mask) in enumerate(examples):
        input_ids_BL[row, : len(ids)] = torch.from_numpy(ids)
        loss_mask_BL[row, : len(ids)] = torch.from_numpy(mask)
    return input_ids_BL.to(device), loss_mask_BL.to(device)


def _step_name(step: int) -> str:
    return f"step-{step:06d}"


def _step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def _last_resume_point(store: Store, folder: str) -> dict[str, Any]:
    for name in sorted(store.names(folder, "resume"), key=_step_of, reverse=True):
        if store.exists(folder, "resume", name, "state.json"):  # written last
            return store.read_json(folder, "resume", name, "state.json")
    return {
        "step": 0, "workers": None, "seconds": 0.0, "tokens": 0, "padded_tokens": 0,
        "history": [], "checkpoints": [], "files": [],
    }  # fmt: skip


def _save(
    store: Store,
    folder: str,
    engine: Any,
    tokenizer: Any,
    state: dict[str, Any],
    rank: int,
    *,
    publish: bool,
) -> None:
    """Keep a checkpoint (when `publish`) and a resume point; the newest resume point alone stays.

    Every worker saves its share of the optimizer; the first also the weights, and state.json last.
    """
    step = state["step"]
    with tempfile.TemporaryDirectory() as local:
        engine.save_model(local)  # gathers from all workers, writes on the first
        engine.save_optimizer(local)
        if rank == 0 and publish:
            published = Path(local, "publish")
            published.mkdir()
            for file in [*Path(local).glob("*.json"), *Path(local).glob("model*.safetensors")]:
                shutil.copy(file, published)
            tokenizer.save_pretrained(published)
            name = checkpoint_name(step)
            for copied in store.upload(published, folder, name):
                path = f"{name}/{copied['file']}"
                state["files"].append(copied | {"unit": path, "file": path, "rows": 0})
            state["checkpoints"].append(step)
        store.upload(local, folder, "resume", _step_name(step))
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
    if rank == 0:
        store.write_bytes(
            json.dumps(state).encode(), folder, "resume", _step_name(step), "state.json"
        )
        for name in store.names(folder, "resume"):
            if _step_of(name) < step:
                store.remove(folder, "resume", name)
