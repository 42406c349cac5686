"""Load causal language models from the hub or a folder, or build them from a config."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from s2l_ray.config import ModelConfig, WorkersConfig
from s2l_ray.corpus.pretrained import check_weights, load_config
from s2l_ray.models.sharding import Sharding, in_a_file, on_device

SMALL = 10_000_000  # weights


def device_of(workers: WorkersConfig, *, tf32: bool = False) -> torch.device:
    """Return the device of a worker's model. On a CPU, give torch the worker's threads."""
    allow_tf32(tf32)
    if workers.gpus_per_worker:
        return torch.device("cuda")
    torch.set_num_threads(max(1, int(workers.cpus_per_worker)))
    return torch.device("cpu")


def no_tf32() -> None:
    allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    """Compute fp32 matrix products and convolutions (Mamba has some) on GPUs in TF32, or in full
    fp32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def explain_out_of_memory(where: str, doing: str, advice: str) -> Iterator[None]:
    """Raise torch's out-of-memory error as a ValueError that says where and what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(f"{where}: out of GPU memory while {doing} ({error}); {advice}") from error


@dataclass(frozen=True)
class Placing:
    """Where a model's weights go, and in which precision.

    dtype: None keeps that of the file, whose memory is then mapped instead of copied: the workers
    of a node share one copy, which the system may drop and read again.
    device: a GPU gets each weight as it is read (untested on GPUs). Or a device_map of
    transformers: "auto" spreads the layers over the GPUs that this process sees. By default the
    CPU.
    sharding: each worker keeps its share of each weight only.
    quantization: a BitsAndBytesConfig, by which pretrained weights are rounded as they load.
    """

    dtype: torch.dtype | None = torch.float32
    device: torch.device | str | dict[str, Any] | None = None
    sharding: Sharding | None = None
    quantization: Any = None

    def options(self, model: str | Path) -> dict[str, Any]:
        """Return the arguments of from_pretrained."""
        found: dict[str, Any] = {"dtype": self.dtype or stored_dtype(model)}
        if self.quantization is not None:
            found["quantization_config"] = self.quantization
        if not isinstance(self.device, torch.device):
            found["device_map"] = self.device
        return found

    def at_work(self) -> AbstractContextManager[None]:
        """Place each weight when it is read."""
        if self.sharding is not None:
            return self.sharding.as_registered()
        if isinstance(self.device, torch.device) and self.device.type != "cpu":
            return on_device(self.device)
        return nullcontext()


def stored_dtype(model: str | Path) -> torch.dtype:
    """Return the precision of a folder's weights: the one that all have, or else float32.

    float32 holds any of them. It is the answer for other formats than safetensors too, and for a
    model of the hub.
    """
    found = set()
    for file in Path(model).glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            found |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    floats = [name for name in found if "F" in name]
    half = {"BF16": torch.bfloat16, "F16": torch.float16}
    return half.get(floats[0], torch.float32) if len(floats) == 1 else torch.float32


def initial_model(
    model: ModelConfig, tokenizer: Any, *, seed: int, placing: Placing | None = None
) -> PreTrainedModel:
    """Return the model before training, by default in fp32: training keeps fp32 master weights.

    seed: of the weights of a model from scratch. ValueError if a pretrained one lacks a weight.
    """
    placing = placing or Placing()
    if model.architecture is None:
        assert model.name is not None
        try:
            about = load_config(model.name, model.revision)
            check_weights(about)
            _check_stored(model.name, about)
            with placing.at_work():
                found, info = AutoModelForCausalLM.from_pretrained(
                    model.name,
                    revision=model.revision,
                    trust_remote_code=False,
                    use_safetensors=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # told by the info, and refused below
                    **placing.options(model.name),
                )
        except OSError as error:
            # GatedRepoError is one too.
            if not isinstance(error.__cause__, RepositoryNotFoundError):
                raise
            # The driver could read it, so the model exists, and this node lacks access.
            raise ValueError(
                f"model: node {socket.gethostname()} cannot read {model.name!r}; if it is gated, "
                f"set HF_TOKEN in the environment of the workers of every node: {error}"
            ) from error
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # of transformers, safetensors and torch
            raise ValueError(f"{model.name}: not a complete model: {error}") from error
        _check_keys(model.name, info, "missing_keys", "mismatched_keys")
        return found
    fields = {"vocab_size": len(tokenizer)} | model.architecture
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        fields.setdefault(name, getattr(tokenizer, name))
    if fields["vocab_size"] < len(tokenizer):
        raise ValueError(
            f"architecture: found vocab_size {fields['vocab_size']}, expected at least "
            f"{len(tokenizer)}, the number of the tokenizer's tokens"
        )
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    # A config keeps an unknown field as one more attribute, which no model reads.
    kept, default = config.to_dict(), type(config)()
    unknown = sorted(name for name in fields if name in kept and not hasattr(default, name))
    if unknown:
        raise ValueError(f"architecture: {config.model_type} has no field {', '.join(unknown)}")
    with torch.random.fork_rng(devices=[]), in_a_file() if placing.sharding else nullcontext():
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(config).float()
    if placing.sharding:
        placing.sharding.split_all(made)
    return made


def load_model(
    folder: str | Path, *, dtype: str = "float32", placing: Placing | None = None
) -> PreTrainedModel:
    """Load a model from a local folder in Hugging Face format. Runs no code from it.

    dtype: used without placing. ValueError if a file or a weight is missing or damaged, if the
    weights are not safetensors, or if the GPUs are too small.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: not a complete model: the folder does not exist")
    placing = placing or Placing(dtype=getattr(torch, dtype))
    try:
        with placing.at_work():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **placing.options(folder),
            )
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # says nothing about the folder
    except Exception as error:  # of transformers, huggingface_hub, safetensors and torch
        raise ValueError(f"{folder}: not a complete model: {error}") from error
    _check_keys(folder, info, "missing_keys", "unexpected_keys")
    places = set(getattr(model, "hf_device_map", {}).values())
    if len(places) > 1 and places & {"cpu", "disk"}:
        raise ValueError(
            f"{folder}: does not fit into the memory of {torch.cuda.device_count()} GPUs; raise "
            "gpus_per_worker, or set trajectories.dtype: bfloat16"
        )
    return model


def _check_stored(folder: str | Path, config: PretrainedConfig) -> None:
    """Raise ValueError if a config describes a model far larger than a folder's weights.

    transformers would make the missing ones: more than there is memory for.
    """
    stored = 0
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
            stored += sum(math.prod(shape) for shape in shapes)
    if not stored:  # of the hub; or loading says what is wrong
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    described = sum(weights.numel() for weights in model.parameters())
    if described > 2 * stored + SMALL:
        raise ValueError(
            f"{folder}: not a complete model: config.json describes {described:,} weights, and the "
            f"safetensors have {stored:,}"
        )


def spread_over_gpus(model: PreTrainedModel) -> PreTrainedModel:
    """Spread the layers of a loaded model over the GPUs that this process sees."""
    # Not at the top: most processes do without.
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules or [])  # classes of layers
    room = get_balanced_memory(model, no_split_module_classes=whole)
    places = infer_auto_device_map(model, max_memory=room, no_split_module_classes=whole)
    return dispatch_model(model, device_map=places)


def _check_keys(model: str | Path, info: dict[str, Any], *kinds: str) -> None:
    """transformers fills missing weights, and those of another size, with random numbers, and
    drops unexpected ones."""
    for kind in kinds:
        if names := sorted(info[kind]):
            first = names[0]
            if kind == "mismatched_keys":
                name, found, expected = first
                first = f"{name} of size {list(found)}, which config.json has as {list(expected)}"
            raise ValueError(
                f"{model}: not a complete model: {kind.removesuffix('_keys')} weights {first} "
                f"({len(names)} in all)"
            )
