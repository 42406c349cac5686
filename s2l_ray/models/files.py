"""What can be told of a model without loading it: its files, or its name on the hub. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2l_ray.config import ModelConfig
from s2l_ray.config.model_sizes import sizes_fault
from s2l_ray.execution import hub

LFS = b"version https://git-lfs"
ADAPTER_CONFIG = "adapter_config.json"  # peft's name
BASE_CONFIG = "base_config.json"  # beside it, the config of the base
EXPECTED_WEIGHTS = "expected model.safetensors, or model.safetensors.index.json and shards"
NO_PICKLES = (
    "has only pickled weights (pytorch_model.bin), which could run code when they are loaded; "
    "expected safetensors: load it where you trust it, and save it with save_pretrained"
)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "*.model", "tekken.json")


def folder_fault(folder: Path, *, weights: bool) -> str | None:
    """Say what is wrong with a folder in Hugging Face format, or return None.

    weights: a model is expected, not only a tokenizer. Reads names, sizes and headers.
    """
    try:
        if weights and (fault := _model_fault(folder)):
            return fault
        if any(file for pattern in TOKENIZER for file in folder.glob(pattern)):
            return None
    except OSError as error:
        return f"cannot be read: {error}"
    return "has no tokenizer; expected tokenizer.json or tokenizer_config.json"


def result_fault(folder: Path) -> str | None:
    """Say why a folder holds neither a whole model in safetensors nor an adapter of peft's, or
    return None. Reads names, sizes and headers."""
    if is_adapter(folder):
        adapter = folder / "adapter_model.safetensors"
        return _file_fault(adapter) if adapter.is_file() else f"has no {adapter.name}"
    return _model_fault(folder)


def is_adapter(folder: str | Path) -> bool:
    """Say whether a local folder is an adapter of peft's, not a whole model."""
    return Path(folder, ADAPTER_CONFIG).is_file()


def base_of(folder: str | Path) -> ModelConfig:
    """Return the pretrained model that an adapter belongs to, as the configuration named it."""
    found = read_json(folder, ADAPTER_CONFIG)
    return ModelConfig(name=found["base_model_name_or_path"], revision=found.get("revision"))


def read_json(folder: str | Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a local folder; ValueError names it if it is damaged."""
    file = Path(folder, name)
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: damaged: {error}") from None


def has_chat_template(folder: Path) -> bool:
    """Say whether a tokenizer's folder has a chat template, in a file of its own or another's."""
    if any((folder / f"chat_template.{ending}").is_file() for ending in ("jinja", "json")):
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and b'"chat_template"' in file.read_bytes()


def hub_fault(name: str, revision: str | None, *, weights: bool) -> str | None:
    """Say why a name that is no folder cannot be a model or tokenizer of the hub, or return None.

    Returns None if the hub gives no clear answer.
    """
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return "there is no such folder"
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    file = "config.json" if weights else "tokenizer_config.json"
    at = f" at revision {revision!r}" if revision else ""
    try:
        if isinstance(try_to_load_from_cache(name, file, revision=revision), str):
            return None
        url = hf_hub_url(name, file, revision=revision)
        if why := hub.silence(url):
            return (
                f"there is no such folder, the hub's cache lacks it{at}, and the hub cannot be "
                f"reached: {why}"
            )
        get_hf_file_metadata(url, timeout=hub.SECONDS)
    except HFValidationError:
        return "there is no such folder, and no name on the hub looks like this"
    except OfflineModeIsEnabled:
        return f"there is no such folder, and the hub's cache lacks it{at}; HF_HUB_OFFLINE is set"
    except GatedRepoError:
        return "access on the hub is restricted; accept its terms there, and set HF_TOKEN"
    except RepositoryNotFoundError:
        return (
            "there is no such folder and no such model on the hub; if it is private, set HF_TOKEN"
        )
    except RevisionNotFoundError:
        return f"the hub has no revision {revision!r} of it"
    except EntryNotFoundError:
        return f"on the hub it has no {file}{at}" if weights else None
    except (hub.http_error(), OSError):  # no clear answer
        return None
    return None


def _model_fault(folder: Path) -> str | None:
    config = folder / "config.json"
    if not config.is_file() and (folder / ADAPTER_CONFIG).is_file():
        return "is an adapter; expected a whole model, such as lora.merge: true writes"
    if not config.is_file():
        return "has no config.json; expected a model in Hugging Face format"
    if fault := _file_fault(config):
        return fault
    if fault := sizes_fault(read_json(folder, config.name)):
        return f"{config.name}: {fault}"
    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if weights.exists():
        return _file_fault(weights)
    if index.exists():
        return _file_fault(index) or _shards_fault(index)
    if any(folder.glob("pytorch_model*.bin")):
        return NO_PICKLES
    return f"has no weights; {EXPECTED_WEIGHTS}"


def _shards_fault(index: Path) -> str | None:
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (LookupError, TypeError, AttributeError):
        return f"{index.name} is damaged: it lists no files of weights"
    for shard in shards:
        if not (index.parent / shard).is_file():
            return f"lacks {shard}, which {index.name} lists"
        if fault := _file_fault(index.parent / shard):
            return fault
    return None


def _file_fault(file: Path) -> str | None:
    """Say whether a file is a pointer, no JSON, or of another size than its header says."""
    with open(file, "rb") as stream:
        if stream.read(len(LFS)) == LFS:
            return f"{file.name} is a Git LFS pointer, not the file itself; run `git lfs pull`"
        stream.seek(0)
        if file.suffix == ".json":
            try:
                json.load(stream)
            except (ValueError, RecursionError) as error:
                return f"{file.name} is damaged: {error}"
        elif file.suffix == ".safetensors":
            size, length = file.stat().st_size, int.from_bytes(stream.read(8), "little")
            try:
                tensors = json.loads(stream.read(length) if length < size else b"")
                tensors.pop("__metadata__", None)
                ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
            except (ValueError, LookupError, TypeError, AttributeError):
                return f"{file.name} is damaged: it has no header of safetensors"
            if (expected := 8 + length + max(ends, default=0)) != size:
                return f"{file.name} is damaged: {size:,} bytes, but its header says {expected:,}"
    return None
