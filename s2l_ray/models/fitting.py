"""Whether a training or a scoring fits the memory it will have, and which settings make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig

from s2l_ray.config import TrainingConfig
from s2l_ray.models.memory import Memory, training_memory
from s2l_ray.models.room import Room, Verdict, gigabytes, parts_told

REFUSE = 1.25  # times the memory: an estimate may be wrong

ADVICE = 3  # settings shown, at most


def judge_training(
    section: str,
    training: TrainingConfig,
    model: PretrainedConfig,
    room: Room,
    *,
    length: int,
    usual: int,
) -> Verdict:
    """Compare a training with the memory it will have.

    section: of the settings, for messages. length: tokens of the longest example, which a warning
    is about. usual: a length that whole micro-batches have, which a refusal is about.
    """
    surely = training_memory(training, model, usual)
    known = Verdict(gpu=surely.on_gpu, disk=surely.disk)
    told = _lacking(surely, room, REFUSE)
    refused, length = bool(told), usual if told else length
    told = told or _lacking(training_memory(training, model, length), room, 1.0)
    if not told:
        return known
    text = (
        f"{section}: micro-batches of {training.micro_batch_size} x {length:,} tokens need {told}; "
        f"{advice_for(training, model, room, length)}"
    )
    return known._replace(refused=text) if refused else known._replace(doubtful=text)


def judge_scoring(section: str, memory: Memory, room: Room) -> Verdict:
    """Compare a scoring actor with the memory it will have."""
    advice = "; lower trajectories.tokens_per_batch, or set trajectories.dtype: bfloat16"
    if told := _lacking(memory, room, REFUSE):
        return Verdict(refused=f"{section}: scoring needs {told}{advice}")
    if told := _lacking(memory, room, 1.0):
        return Verdict(doubtful=f"{section}: scoring needs {told}{advice}")
    return Verdict()


def advice_for(training: TrainingConfig, model: PretrainedConfig, room: Room, length: int) -> str:
    """Name settings with which the training fits, each tried on the estimate."""
    working, nearest = list[str](), None
    for changes in _candidates(training):
        try:
            changed = TrainingConfig.model_validate(training.model_dump() | changes)
        except ValueError:
            continue  # settings that do not go together
        memory = training_memory(changed, model, length)
        need = memory.on_gpu or memory.on_host
        text = f"{_shown(changes)} would need {gigabytes(need)}"
        if not _lacking(memory, room, 1.0):
            working.append(text)
        if nearest is None or need < nearest[0]:
            nearest = need, text
        if len(working) == ADVICE:
            break
    if working:
        return "; ".join(working)
    least = f": {nearest[1]}" if nearest else ""
    return f"no setting makes it fit{least}; take larger GPUs or nodes, or more workers"


def _candidates(training: TrainingConfig) -> Iterator[dict[str, Any]]:
    """Yield changes of settings, those that cost the least speed first."""
    share = training.global_batch_size // training.workers.num_workers
    smaller = [
        size for size in range(training.micro_batch_size - 1, 0, -1)
        if share % size == 0 and training.micro_batch_size % size == 0
    ]  # fmt: skip
    sizes = [smaller[0], smaller[-1]] if len(smaller) > 1 else smaller
    checkpointing: dict[str, Any] = {"gradient_checkpointing": True}
    if training.gradient_checkpointing:
        checkpointing = {}
    stages = [stage for stage in (2, 3) if stage > (training.zero_stage or 0)]
    several = training.workers.num_workers > 1
    for size in sizes[:1]:
        yield {"micro_batch_size": size}
    for stage in stages if several else ():
        yield {"zero_stage": stage, "max_workers": None}
    if checkpointing:
        yield checkpointing
    for size in sizes[1:]:
        yield {"micro_batch_size": size}
    least = {"micro_batch_size": sizes[-1]} if sizes else {}
    for stage in stages if several else ():
        yield {"zero_stage": stage, "max_workers": None} | checkpointing
        yield {"zero_stage": stage, "max_workers": None} | checkpointing | least
    if checkpointing and least:
        yield checkpointing | least
    if training.lora is None and training.model.name and training.train is None:
        yield {"lora": {"r": 16}} | checkpointing
        yield {"lora": {"r": 16, "quantize": "4bit"}, "zero_stage": None} | checkpointing | least
    if several:
        for times in (2, 4, 8):
            workers = training.workers.num_workers * times
            if training.global_batch_size % (workers * (sizes or [training.micro_batch_size])[-1]):
                continue
            wider = training.workers.model_copy(update={"num_workers": workers})
            yield {
                "zero_stage": 3, "max_workers": None, "workers": wider.model_dump(),
            } | checkpointing | least  # fmt: skip
    else:
        yield {"zero_stage": 2, "offload_optimizer": True} | checkpointing | least


def _shown(changes: dict[str, Any]) -> str:
    parts = []
    for name, value in changes.items():
        if name == "workers":
            parts.append(f"workers.num_workers: {value['num_workers']}")
        elif name == "lora":
            inner = ", ".join(f"{key}: {setting}" for key, setting in value.items())
            parts.append(f"lora: {{{inner}}}")
        elif name != "max_workers":
            parts.append(f"{name}: {'null' if value is None else str(value).lower()}")
    return " with ".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 else parts[0]


def _lacking(memory: Memory, room: Room, times: float) -> str:
    """Say what is more than so many times the memory; "" if nothing is."""
    if memory.gpu and room.gpu is not None and memory.on_gpu > times * room.gpu:
        return (
            f"{gigabytes(memory.on_gpu)} on each GPU ({parts_told(memory.gpu)}), but it has "
            f"{gigabytes(room.gpu)} ({room.where})"
        )
    host = memory.on_host * room.per_node
    if room.host is not None and host > times * room.host:
        return (
            f"{gigabytes(host)} of host memory for {room.per_node} on a node "
            f"({parts_told(memory.host)} each), but it has {gigabytes(room.host)} ({room.where})"
        )
    return ""
