"""The weights of a model, by the headers of its safetensors. No torch, and no weights are read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from s2l_ray.store import Store

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST, LONGEST = 2**16, 10**8  # bytes that hold most headers, and that any may have
HEADS = {"lm_head", "embed_out", "head"}  # what architectures call the output head
EMBEDDINGS = {"wte", "wpe"}  # and their embeddings, beside names with "embed"
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")

Shapes = dict[str, tuple[int, ...]]  # of weights, by name


def shapes_in(store: Store, folder: str) -> Shapes | None:
    """Return the shapes of a model's weights; None if the folder has none in safetensors.

    folder: in the run directory, or an absolute path.
    """

    def read(name: str, first: int | None = None) -> bytes:
        if not os.path.isabs(folder):
            return store.read_bytes(folder, name, first=first)
        with open(Path(folder, name), "rb") as file:
            return file.read(first)

    try:
        names = {WEIGHTS} if _has(store, folder, WEIGHTS) else None
        if names is None:
            names = set(json.loads(read(INDEX))["weight_map"].values())
        found: Shapes = {}
        for name in sorted(names):
            start = read(name, FIRST)
            end = 8 + int.from_bytes(start[:8], "little")
            if end > LONGEST:  # it is something else
                return None
            header = json.loads((start if end <= len(start) else read(name, end))[8:end])
            found |= {key: tuple(of["shape"]) for key, of in header.items() if "shape" in of}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return found


def _has(store: Store, folder: str, name: str) -> bool:
    if os.path.isabs(folder):
        return Path(folder, name).is_file()
    return store.exists(folder, name)


def parameters_at_work(
    shapes: Mapping[str, tuple[int, ...]], config: dict[str, Any], label_share: float
) -> int | None:
    """Count as models.properties.parameters_at_work does, which builds the model.

    config: the model's config.json. None if the names do not tell which weights are the output
    head's.
    """
    text = config.get("text_config") or config
    experts = next((count for name in EXPERTS if (count := text.get(name))), None)
    to_experts = (text.get("num_experts_per_tok") or experts) / experts if experts else 1.0
    total, head, embeddings = 0.0, 0, dict[str, int]()
    for name, shape in shapes.items():
        layer = name.split(".")[-2] if "." in name else ""
        if layer in HEADS:
            head += prod(shape)
        elif len(shape) == 2 and (layer in EMBEDDINGS or "embed" in layer):
            embeddings[name] = prod(shape)
        else:
            total += prod(shape) * (to_experts if ".experts." in name else 1.0)
    if not head:  # it is the embedding of tokens
        vocabulary = text.get("vocab_size")
        tied = [name for name in embeddings if shapes[name][0] == vocabulary]
        if len(tied) != 1:
            return None
        head = embeddings[tied[0]]
    return round(total + label_share * head)
