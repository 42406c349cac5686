"""Which layers of a model get adapters: what a configuration names, against what there is."""

from __future__ import annotations

import re

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from s2l_ray.config import LoraConfig

_NAMES_SHOWN = 20


def check_targets(model: PreTrainedModel, lora: LoraConfig) -> None:
    """ValueError if a setting names a module that the model lacks. The model may be without
    weights."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    names = [name for name, _ in model.named_modules()]
    head = model.get_output_embeddings()
    linear = sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module is not head
        }
    )
    kind = model.config.model_type
    wanted, there = lora.target_modules, f"its linear layers are {_listed(linear)}"
    if wanted is None and kind not in KNOWN:
        raise ValueError(
            f"lora.target_modules: peft has no default for {kind}; set it to all-linear or to "
            f"names of layers ({there})"
        )
    if isinstance(wanted, str) and wanted != "all-linear":
        if not any(re.fullmatch(wanted, name) for name in names):
            raise ValueError(
                f"lora.target_modules: no module of this {kind} matches {wanted!r} from the start "
                f"of its full name to the end; {there}"
            )
        wanted = None
    for field, each in (
        ("target_modules", wanted if isinstance(wanted, list) else []),
        ("modules_to_save", lora.modules_to_save or []),
    ):
        for one in each:
            if not any(name == one or name.endswith(f".{one}") for name in names):
                raise ValueError(
                    f"lora.{field}: this {kind} has no module named {one!r}; {there}"
                    + (", its other modules " + _listed(_others(model)) if "save" in field else "")
                )


def _others(model: PreTrainedModel) -> list[str]:
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding) or module is model.get_output_embeddings()
        }
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
