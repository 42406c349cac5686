"""Estimate the memory of a training worker and of a scoring actor, from a model's config.json.

Weights, gradients and optimizer state follow from the settings; what a micro-batch takes is traced
(tracing.py). Nothing is loaded. docs/performance.md compares estimates with measurements.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel

from s2l_ray.config import LoraConfig, ModelConfig, TrainingConfig
from s2l_ray.corpus.pretrained import load_config
from s2l_ray.models.files import hub_fault
from s2l_ray.models.tracing import Adapt, Trace, trace

# Of a worker: the CUDA context, kernels and NCCL's buffers; the interpreter and its libraries.
GPU_LIBRARIES = 1.5e9
HOST_LIBRARIES = 0.7e9

FP32, BF16 = 4, 2  # bytes
FOUR_BITS = 0.53  # with NF4's quantized scales

# Elements, DeepSpeed's defaults.
REDUCE_BUCKET = 5e8
LIVE_WEIGHTS = 1e9


class Memory(NamedTuple):
    """Bytes by what takes them. gpu is empty for a worker without GPU; host is per worker.

    disk: of a training's models and resume points.
    """

    gpu: dict[str, float]
    host: dict[str, float]
    disk: float = 0.0

    @property
    def on_gpu(self) -> float:
        return sum(self.gpu.values())

    @property
    def on_host(self) -> float:
        return sum(self.host.values())


@cache
def _config_of(name: str, revision: str | None) -> PretrainedConfig:
    def load(**options: Any) -> PretrainedConfig:
        return load_config(name, revision, **options)

    try:
        return load(local_files_only=True)
    except OSError:
        # Otherwise transformers would ask a hub that is out of reach again for half a minute.
        if not Path(name).is_dir() and (fault := hub_fault(name, revision, weights=True)):
            raise ValueError(f"{name}: {fault}") from None
        return load()


def config_of(model: ModelConfig) -> PretrainedConfig:
    """Return the config of a model, from its folder, the hub or its cache, or `architecture`.

    OSError or ValueError if there is none.
    """
    if model.architecture is None:
        assert model.name is not None
        return _config_of(model.name, model.revision)
    fields = dict(model.architecture)
    if "vocab_size" not in fields:
        fields["vocab_size"] = model.tokenizer_vocab or len(
            AutoTokenizer.from_pretrained(
                model.tokenizer, revision=model.revision, trust_remote_code=False
            )
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        fields.setdefault(name, None)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def training_memory(config: TrainingConfig, model: PretrainedConfig, length: int) -> Memory:
    """Estimate what a worker takes at its peak.

    length: tokens of the longest example; all of them count as labels.
    """
    bf16, sharded = config.dtype == "bfloat16", config.zero_stage is not None
    # The precision that weights are kept in: under DDP in fp32 if they are trained.
    held = torch.bfloat16 if bf16 and (sharded or config.lora) else torch.float32
    traced = _traced(
        model.to_json_string(use_diff=False),
        config.micro_batch_size,
        length,
        dtype=held,
        autocast=bf16 and not sharded,
        recompute=config.gradient_checkpointing,
        base=config.model.name or "",
        lora=config.lora.model_dump_json() if config.lora else "",
    )
    weights = float(held.itemsize * traced.weights)
    if config.lora and config.lora.quantize:
        weights = FOUR_BITS * traced.linear + BF16 * (traced.weights - traced.linear)
    parts = {"weights": weights} | (_under_zero if sharded else _under_ddp)(config, traced)
    if config.zero_stage == 3:
        parts["weights"] /= config.workers.num_workers
    parts["activations and logits"] = traced.passes
    offloaded = {name: parts.pop(name) for name in list(parts) if name.endswith("(offloaded)")}
    disk = FP32 * traced.weights + 3 * FP32 * traced.trained
    if not config.workers.gpus_per_worker:
        # Gradients are freed at each step, and the C library keeps their places.
        parts["allocator"] = FP32 * traced.trained
        return Memory({}, parts | offloaded | {"libraries": HOST_LIBRARIES}, disk)
    # A worker reads one weight at a time from a mapped file; a base to adapt it reads whole.
    whole = config.lora and config.zero_stage != 3
    loading = float(held.itemsize * traced.weights if whole else FP32 * traced.largest)
    return Memory(
        parts | {"libraries": GPU_LIBRARIES},
        {"weights while loading": loading} | offloaded | {"libraries": 2 * HOST_LIBRARIES},
        disk,
    )


def scoring_memory(
    model: PretrainedConfig, *, dtype: str, tokens: int, length: int, gpu: bool
) -> Memory:
    """Estimate what a scoring actor takes: batches of `tokens` tokens, examples of `length`."""
    precision = getattr(torch, dtype)
    batch = max(1, tokens // length)
    traced = _traced(
        model.to_json_string(use_diff=False), batch, length, dtype=precision, training=False
    )
    weights = traced.weights * precision.itemsize
    parts = {"weights": weights, "activations and logits": float(traced.passes)}
    if not gpu:
        return Memory({}, parts | {"libraries": HOST_LIBRARIES})
    return Memory(
        parts | {"libraries": GPU_LIBRARIES},
        {"weights while loading": weights, "libraries": 2 * HOST_LIBRARIES},
    )


@lru_cache(maxsize=64)
def _traced(
    model: str, batch: int, length: int, *, base: str = "", lora: str = "", **how: Any
) -> Trace:
    """Trace a micro-batch. model, lora: as JSON. base: the name of the model that lora adapts."""
    adapt: Adapt | None = None
    if lora:
        from s2l_ray.models.adapters import add_adapters  # imports peft

        settings = LoraConfig.model_validate_json(lora)

        def adapt(model: PreTrainedModel) -> PreTrainedModel:
            return add_adapters(model, ModelConfig(name=base), settings)

    return trace(AutoConfig.for_model(**json.loads(model)), batch, length, adapt=adapt, **how)


def _under_ddp(config: TrainingConfig, traced: Trace) -> dict[str, float]:
    moment = FP32 if config.optimizer == "adamw" else 1
    return {  # the gradients are views of DDP's buckets
        "gradients": FP32 * traced.trained,
        "optimizer state": 2 * moment * traced.trained,
    }


def _under_zero(config: TrainingConfig, traced: Trace) -> dict[str, float]:
    stage, workers = config.zero_stage, config.workers.num_workers
    held = BF16 if config.dtype == "bfloat16" else FP32
    share = traced.trained / workers
    parts: dict[str, float] = {}
    if stage == 0:
        parts["gradients"] = FP32 * traced.trained
        state = 2.0 * FP32 * traced.trained
    else:
        parts["gradients"] = held * traced.trained if stage == 1 else FP32 * share
        masters = 0 if stage == 3 and held == FP32 else FP32 * share
        state = masters + 2 * FP32 * share
    if config.offload_optimizer:
        parts["optimizer state (offloaded)"] = state + FP32 * share
    else:
        parts["optimizer state"] = state
    zero = config.deepspeed.get("zero_optimization", {})
    bucket = zero.get("reduce_bucket_size", REDUCE_BUCKET)
    parts["buckets"] = held * min(bucket, traced.trained)
    if stage == 3:
        live = zero.get("stage3_max_live_parameters", LIVE_WEIGHTS)
        parts["buckets"] += held * min(live, traced.weights)
    return parts
