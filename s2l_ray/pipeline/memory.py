"""Refuse a training that cannot fit the cluster's memory, before any training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from s2l_ray.config import ModelConfig, TrainingConfig, WorkersConfig
from s2l_ray.execution.connect import when_connected
from s2l_ray.execution.nodes import nodes_for, room_on
from s2l_ray.models.room import Room, Verdict, nominal
from s2l_ray.pipeline.gpus import gpu_memory_of
from s2l_ray.store.views import TokensView

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)

SMALL = 2e7  # weights; such a model takes less than 1 GB, whatever the settings


def check_memory(run: Run, section: str, training: TrainingConfig) -> None:
    """ValueError if a training surely does not fit, with settings that would; a warning if it may
    not; both once the run has connected (connect.when_connected). Needs the proxy's tokens, which
    tell how long examples are.

    Says nothing of small models on CPUs, of models whose config.json is out of reach, and of GPUs
    that are not there yet and have no accelerator_type.
    """
    if training.train is not None or training.checkpoints is not None:
        return  # the user's own loop, or no training
    if not training.workers.gpus_per_worker and _is_small(training.model):
        return
    tokens = TokensView(run.get(run.plan.tokens))
    usual = max(1, round(tokens.trainable_tokens / max(1, tokens.trainable)))
    longest = tokens.max_length if tokens.truncated else usual

    def check() -> None:
        rooms = rooms_of(training.workers)
        if not rooms:
            return
        verdict = ray.get(_judge.remote(section, training, rooms, longest, usual))
        run.gpu_bytes = max(run.gpu_bytes, verdict.gpu)
        run.disk_bytes = max(run.disk_bytes, verdict.disk)
        if verdict.refused:
            raise ValueError(verdict.refused)
        if verdict.doubtful:
            logger.warning(verdict.doubtful)

    when_connected(check)


@ray.remote(num_cpus=1)
def _judge(
    section: str, training: TrainingConfig, rooms: list[Room], longest: int, usual: int
) -> Verdict:
    """Judge by the node where the training fits best."""
    # Imported here alone: the driver starts without torch.
    from s2l_ray.models.fitting import judge_training
    from s2l_ray.models.memory import config_of

    try:
        model = config_of(training.model)
    except (ValueError, OSError):
        return Verdict()  # the training itself says what is wrong with the model
    verdicts = [
        judge_training(section, training, model, room, length=longest, usual=usual)
        for room in rooms
    ]
    return min(verdicts, key=lambda verdict: (bool(verdict.refused), bool(verdict.doubtful)))


def rooms_of(workers: WorkersConfig) -> list[Room]:
    """Return the memory of the kinds of nodes that can hold a worker, or of the accelerator_type
    if none is there yet."""
    nodes = nodes_for(workers)
    measured = gpu_memory_of(nodes) if workers.gpus_per_worker else {}
    rooms: dict[Room, Room] = {}
    for node in nodes:
        resources, gpu = node["Resources"], measured.get(node["NodeID"])
        host = resources.get("memory", 0.0) + resources.get("object_store_memory", 0.0)
        room = Room(
            gpu=None if gpu is None else gpu * workers.gpus_per_worker,
            host=host or None,
            per_node=min(workers.num_workers, room_on(node, workers)),
            where=f"node {node['NodeManagerHostname']}",
        )
        rooms.setdefault(room._replace(where=""), room)
    if not rooms and workers.gpus_per_worker and (size := nominal(workers.accelerator_type)):
        size *= workers.gpus_per_worker
        return [Room(gpu=size, where=f"{workers.accelerator_type}, nominal")]
    return list(rooms.values())


def _is_small(model: ModelConfig) -> bool:
    """Say whether a model surely has few weights, without torch."""
    fields = model.architecture
    if fields is None:
        file = Path(model.name or "", "config.json")
        try:
            fields = json.loads(file.read_bytes())
        except (OSError, ValueError):
            return False
    try:
        width, layers = fields["hidden_size"], fields["num_hidden_layers"]
        inner = fields.get("intermediate_size", 4 * width)
        vocabulary = fields.get("vocab_size") or model.tokenizer_vocab or 2**18
        per_layer = 4 * width * width + 3 * width * inner
        return layers * per_layer + 2 * vocabulary * width < SMALL and not _has_experts(fields)
    except (LookupError, TypeError):
        return False


def _has_experts(fields: dict[str, object]) -> bool:
    return any("experts" in name for name in fields)
