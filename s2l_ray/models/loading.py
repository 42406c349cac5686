"""A causal language model from a hub name, a folder or a config (from scratch)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from s2l_ray.config import ModelConfig, WorkersConfig
from s2l_ray.corpus.tokenizer import check_weights


def device_of(workers: WorkersConfig) -> torch.device:
    """The device of one worker's model; on a CPU torch gets the worker's threads."""
    no_tf32()
    if workers.gpus_per_worker:
        return torch.device("cuda")
    torch.set_num_threads(max(1, int(workers.cpus_per_worker)))
    return torch.device("cpu")


def no_tf32() -> None:
    """A GPU's fp32 is to be fp32: in matrix products, and in convolutions (of Mamba, say)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def explain_out_of_memory(where: str, doing: str, advice: str) -> Iterator[None]:
    """Raise torch's out-of-memory error as a ValueError that says where and what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(f"{where}: out of GPU memory while {doing} ({error}); {advice}") from error


def initial_model(model: ModelConfig, tokenizer: Any, *, seed: int) -> PreTrainedModel:
    """The model before training, fp32 (training keeps fp32 master weights). Seeds from-scratch.
    ValueError for a folder or hub model that lacks a weight."""
    if model.architecture is None:
        assert model.name is not None
        here: dict[str, Any] = {"revision": model.revision, "trust_remote_code": False}
        try:
            check_weights(AutoConfig.from_pretrained(model.name, **here))
            found, info = AutoModelForCausalLM.from_pretrained(
                model.name, dtype=torch.float32, output_loading_info=True, **here
            )
        except OSError as error:
            if not isinstance(error.__cause__, RepositoryNotFoundError):  # gated ones are some
                raise
            # The driver has seen it: what this node lacks is a right to it.
            raise ValueError(
                f"model: {model.name!r} cannot be read on node {socket.gethostname()} (a gated "
                f"one needs HF_TOKEN in the environment of every node's workers): {error}"
            ) from error
        if names := sorted(info["missing_keys"]):  # transformers fills in random numbers
            raise ValueError(
                f"{model.name}: not a whole model: missing weights {names[0]} ({len(names)} such)"
            )
        return found
    fields = {"vocab_size": len(tokenizer)} | model.architecture
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        fields.setdefault(name, getattr(tokenizer, name))
    if fields["vocab_size"] < len(tokenizer):
        raise ValueError(
            f"architecture: vocab_size {fields['vocab_size']} is less than the tokenizer's "
            f"{len(tokenizer)} tokens"
        )
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    # What a config does not know it keeps as one more attribute, and no model reads it.
    kept, default = config.to_dict(), type(config)()
    unknown = sorted(name for name in fields if name in kept and not hasattr(default, name))
    if unknown:
        raise ValueError(f"architecture: {config.model_type} has no field {', '.join(unknown)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).float()


def load_model(folder: str | Path, *, dtype: str = "float32") -> PreTrainedModel:
    """A model from a local folder in Hugging Face format; safetensors only, no code from it.

    ValueError for a folder that lacks a file or a weight, or holds a damaged one.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # of transformers, huggingface_hub, safetensors and torch
        raise ValueError(f"{folder}: not a whole model: {error}") from error
    # transformers fills what is missing with random numbers and drops what it has no place for.
    for kind in ("missing_keys", "unexpected_keys"):
        if names := sorted(info[kind]):
            raise ValueError(
                f"{folder}: not a whole model: {kind.replace('_keys', '')} weights {names[0]} "
                f"({len(names)} such)"
            )
    return model
