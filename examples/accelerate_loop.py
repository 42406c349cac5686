"""The target trained by a loop with Accelerate: `target.train: examples.accelerate_loop:train`.

    s2l-ray finetune my.yaml target.train=examples.accelerate_loop:train

Run it from the folder that has examples/ in it. `config` and the datasets: docs/own-loop.md.
"""

import tempfile
from contextlib import nullcontext
from typing import Any

import ray.train


def train(config: dict[str, Any]) -> None:
    """Train on one Ray Train worker, whose share of the examples Ray Data reads as they come."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

    settings, steps = config["training"], config["steps"]
    set_seed(config["seed"])
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if settings["model"]["dtype"] == "bfloat16" else "no",
    )
    model = AutoModelForCausalLM.from_pretrained(config["model"], dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    warmup = round(settings["warmup_share"] * steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    progress = Progress()
    accelerator.register_for_checkpointing(schedule, progress)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            accelerator.load_state(folder)

    world, size = accelerator.num_processes, settings["micro_batch_size"]
    batches = shuffled(config, settings["global_batch_size"] // world, skip=progress.step)
    while progress.step < steps:
        batch = next(batches)
        counts = [sum(label != -100 for label in labels[1:]) for labels in batch["labels"]]
        here = [sum(counts), sum(len(ids) for ids in batch["input_ids"])]
        labelled, tokens = accelerator.reduce(
            torch.tensor(here, device=accelerator.device)
        ).tolist()
        total = torch.zeros((), device=accelerator.device)
        for first in range(0, len(counts), size):
            last = first + size >= len(counts)
            inputs = padded(batch, slice(first, first + size), accelerator.device)
            with nullcontext() if last else accelerator.no_sync(model):
                # The loss is a mean over this micro-batch; workers' gradients are averaged.
                loss = model(**inputs).loss * sum(counts[first : first + size])
                accelerator.backward(loss * world / labelled)
            total += loss.detach()
        accelerator.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.step += 1
        progress.tokens += tokens
        loss = accelerator.reduce(total).item() / labelled
        told = {"step": progress.step, "loss": loss, "tokens": progress.tokens}
        if progress.step % settings["resume_every"] == 0:
            with tempfile.TemporaryDirectory() as folder:
                accelerator.save_state(folder)  # each worker its own files
                ray.train.report(told, checkpoint=ray.train.Checkpoint.from_directory(folder))
        else:
            ray.train.report(told)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(config["output"])
        AutoTokenizer.from_pretrained(config["tokenizer"]).save_pretrained(config["output"])


class Progress:
    """What a checkpoint holds beside what Accelerate saves itself."""

    def __init__(self) -> None:
        self.step = self.tokens = 0

    def state_dict(self) -> dict[str, int]:
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, int]) -> None:
        vars(self).update(state)


def shuffled(config: dict[str, Any], size: int, skip: int) -> Any:
    """Yield batches of this worker's share, epoch after epoch, without the first `skip`."""
    shard, epoch = ray.train.get_dataset_shard("train"), 0
    while True:
        for batch in shard.iter_batches(
            batch_size=size,
            local_shuffle_buffer_size=10_000,
            local_shuffle_seed=config["seed"] + epoch,
        ):
            if skip == 0:
                yield batch
            else:
                skip -= 1
        epoch += 1


def padded(batch: dict[str, Any], rows: slice, device: Any) -> dict[str, Any]:
    """Return a micro-batch as the model takes it. Padding on the right has no label."""
    import torch

    def tensor(name: str, value: int) -> Any:
        columns = [torch.as_tensor(row, dtype=torch.long) for row in batch[name][rows]]
        return torch.nn.utils.rnn.pad_sequence(columns, True, value).to(device)

    ids, labels = tensor("input_ids", -1), tensor("labels", -100)
    return {"input_ids": ids.clamp(min=0), "attention_mask": (ids >= 0).long(), "labels": labels}
