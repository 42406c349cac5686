"""Checks of training: beside Hugging Face's trainers, ZeRO, out of memory, resume points."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from benchmarks.gpu_checks.setup import Row, Setup, count_of
from s2l_ray.config import TrainingConfig
from s2l_ray.models.adapters import model_with_adapters
from s2l_ray.models.batch import Example
from s2l_ray.models.loading import explain_out_of_memory, no_tf32
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines import Engine, make_engine
from s2l_ray.training.loop import STEP_MEMORY
from s2l_ray.training.pieces import SavedPieces, copied, write
from s2l_ray.training.step import StepBatch, share_of, train_step

WARM = 2  # steps before the clock starts


def training(setup: Setup) -> list[Row]:
    """Our engine beside transformers' Trainer and TRL's SFTTrainer, on the same batches."""
    rows, name, number = [], "Pythia-410M", 4 if setup.small else 12
    for dtype in ("fp32", "bf16"):
        if setup.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        config = setup.training(name, dtype=dtype)
        batches = setup.batches(name, WARM + number, config)
        count, speeds = count_of(batches[WARM:]), dict[str, float]()
        speeds["ours"] = count / seconds_of(setup, setup.model(name), config, batches)
        peak = setup.peak_gib()
        for kind in ("Trainer", "SFTTrainer"):
            speeds[kind] = count / theirs(setup, name, config, batches, kind)
        ratio = speeds["ours"] / speeds["Trainer"]
        aimed = setup.on_gpu and not setup.small
        rows.append(
            {
                "case": f"{name}, {dtype}",
                **{f"tokens/s, {way}": speed for way, speed in speeds.items()},
                "ours / Trainer": ratio,
                "ours / SFTTrainer": speeds["ours"] / speeds["SFTTrainer"],
                "our peak GiB": peak,
            }
            | ({"goal": "1.0 × Trainer", "met": ratio >= 1.0} if aimed else {})
        )
    return rows


def zero(setup: Setup) -> list[Row]:
    """DeepSpeed ZeRO with gradient checkpointing, in one process."""
    rows, name, number = [], "Llama-1B", 2 if setup.small else 6
    with process_group(setup):
        for stage in (2, 3):
            if setup.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            config = setup.training(
                name, dtype="bf16", zero_stage=stage, gradient_checkpointing=True
            )
            batches = setup.batches(name, WARM + number, config)
            taken = seconds_of(setup, setup.model(name), config, batches)
            rows.append(
                {
                    "case": f"{name}, bf16, ZeRO-{stage}",
                    "tokens/s": count_of(batches[WARM:]) / taken,
                    "peak GiB": setup.peak_gib(),
                }
            )
    return rows


def lora(setup: Setup) -> list[Row]:
    """Adapters on all linear layers of a frozen base in bf16, with gradient checkpointing."""
    name, number = "Llama-1B", 2 if setup.small else 6
    with tempfile.TemporaryDirectory() as folder:
        setup.model(name, "bf16").save_pretrained(folder)
        base = {"name": folder, "dtype": "bfloat16"}
        settings = {"lora": {"target_modules": "all-linear"}, "gradient_checkpointing": True}
        config = setup.training(name, model=base, **settings)
        if setup.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        model = model_with_adapters(config, config.model, seed=0)
    batches = setup.batches(name, WARM + number, config)
    trained = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    taken = seconds_of(setup, model, config, batches)
    return [
        {
            "case": f"{name}, bf16, all linear layers",
            "tokens/s": count_of(batches[WARM:]) / taken,
            "trained weights": trained,
            "peak GiB": setup.peak_gib(),
        }
    ]


def memory(setup: Setup) -> list[Row]:
    """One forced out-of-memory error, and the sentence that a run shows for it."""
    if not setup.on_gpu:
        return [{"case": "skipped: needs a GPU"}]
    name = "Pythia-410M"
    size = 256
    config = setup.training(name, global_batch_size=size, micro_batch_size=size)
    model = setup.model(name)
    free, whole = torch.cuda.mem_get_info()
    allowed = torch.cuda.memory_allocated() + 6 * 2**30
    torch.cuda.set_per_process_memory_fraction(min(allowed, free) / whole)
    engine = engine_of(setup, model, config)
    batch = shares(setup.batches(name, 1, config), config)[0]
    try:
        with explain_out_of_memory("benchmark", f"a step of {size} examples", STEP_MEMORY):
            train_step(engine, batch, 1e-5, device=setup.place)
    except ValueError as error:
        told = str(error)
        met = "out of GPU memory while" in told and STEP_MEMORY in told
        return [{"case": name, "told": told, "goal": "says what to do", "met": met}]
    return [{"case": name, "told": "no error", "goal": "says what to do", "met": False}]


def resume(setup: Setup) -> list[Row]:
    """Three steps after a resume point is written, and after it is read: the same bits."""
    rows, name = [], "Pythia-70M"
    torch.use_deterministic_algorithms(True, warn_only=True)
    for case, changes in (
        ("fp32", {}),
        ("bf16", {"dtype": "bf16"}),
        ("bf16, ZeRO-2", {"dtype": "bf16", "zero_stage": 2}),
    ):
        with tempfile.TemporaryDirectory() as folder, process_group(setup):
            config = setup.training(name, **changes)
            batches = shares(setup.batches(name, 6, config), config)
            engine = engine_of(setup, setup.model(name), config)
            steps(setup, engine, batches[:3])
            saved, went_on, again = (Path(folder, part) for part in ("saved", "went_on", "again"))
            write(map(copied, engine.pieces()), saved)
            steps(setup, engine, batches[3:])
            write(map(copied, engine.pieces()), went_on)
            engine = engine_of(setup, setup.model(name), config)
            engine.restore(SavedPieces(lambda _: folder, ["saved"], "saved"), 3)
            steps(setup, engine, batches[3:])
            write(map(copied, engine.pieces()), again)
            same = same_bits(went_on, again) and not same_bits(saved, again)
        rows.append({"case": f"{name}, {case}", "goal": "same bits", "met": same})
    return rows


def seconds_of(
    setup: Setup, model: Any, config: TrainingConfig, batches: list[list[Example]]
) -> float:
    """Seconds of our steps after WARM. Batches are padded before, as for the trainers."""
    no_tf32()
    engine = engine_of(setup, model, config)
    ready = shares(batches, config)
    steps(setup, engine, ready[:WARM])
    return setup.seconds(steps, setup, engine, ready[WARM:])


def theirs(
    setup: Setup,
    name: str,
    config: TrainingConfig,
    batches: list[list[Example]],
    kind: str,
) -> float:
    """Seconds of a trainer of transformers or TRL for the steps after WARM."""
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from trl import SFTConfig, SFTTrainer

    size = config.micro_batch_size
    micro_batches: Any = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.where(mask, -100)}
        for batch in shares(batches, config)
        for ids, mask in (each[:2] for each in batch.micro_batches)
    ]
    times = dict[int, float]()

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            setup.synchronize()
            times[state.global_step] = time.perf_counter()

    def given_batches(self: Any) -> Any:
        return DataLoader(micro_batches, batch_size=None, pin_memory=setup.on_gpu)

    base, settings = (Trainer, TrainingArguments) if kind == "Trainer" else (SFTTrainer, SFTConfig)
    trainer_class = type("Given", (base,), {"get_train_dataloader": given_batches})
    rows = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, 2]]})  # not used
    more: dict[str, Any] = {"processing_class": unused_tokenizer()} if kind == "SFTTrainer" else {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(
            output_dir=folder, max_steps=len(batches), per_device_train_batch_size=size,
            gradient_accumulation_steps=config.global_batch_size // size,
            learning_rate=config.learning_rate, bf16=config.model.dtype == "bfloat16",
            use_cpu=not setup.on_gpu, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, tf32=False if setup.on_gpu else None,
            gradient_checkpointing=False,
        )  # fmt: skip
        trainer_class(
            model=setup.model(name), args=arguments, train_dataset=rows, callbacks=[Clock()], **more
        ).train()
    return times[len(batches)] - times[WARM]


def unused_tokenizer() -> Any:
    """A tokenizer for SFTTrainer, which asks for one although the batches are tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")


def engine_of(setup: Setup, model: Any, config: TrainingConfig) -> Engine:
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss = LabelLoss(model)
    return make_engine(loss, config, setup.place, 1)


def shares(batches: list[list[Example]], config: TrainingConfig) -> list[StepBatch]:
    return [share_of(batch, micro_batch_size=config.micro_batch_size) for batch in batches]


def steps(setup: Setup, engine: Engine, batches: list[StepBatch]) -> None:
    for batch in batches:
        train_step(engine, batch, 1e-5, device=setup.place)


def same_bits(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors, weights and moments alike."""
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@contextmanager
def process_group(setup: Setup) -> Iterator[None]:
    """A group of this process alone, which DeepSpeed needs."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": "29519"}  # fmt: skip
    dist.init_process_group("nccl" if setup.on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
