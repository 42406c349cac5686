"""LoRA adapters by peft: added to a pretrained model, saved, loaded, merged.

peft's layers are put into the model, which stays a transformers model in all other respects: the
names of its parts, its head and `generate` are as before. peft's own wrapper around it is not kept.
"""

from __future__ import annotations

import copy
import json
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from s2l_ray.config import LoraConfig, ModelConfig, TrainingConfig
from s2l_ray.models.adapter_targets import check_targets
from s2l_ray.models.files import ADAPTER_CONFIG, BASE_CONFIG, base_of, is_adapter, read_json
from s2l_ray.models.loading import Placing, initial_model
from s2l_ray.models.origin import on_this_node, origin_of
from s2l_ray.models.properties import unreached
from s2l_ray.models.sharding import Sharding
from s2l_ray.store import Store

WEIGHTS = "adapter_model.safetensors"

QUANTIZED = "quantization_config"  # a field of BASE_CONFIG, if the base is in 4 bits

PREFIX = "base_model.model."  # of peft's wrapper, which names in files have


def model_with_adapters(
    config: TrainingConfig, here: ModelConfig, *, seed: int, sharding: Sharding | None = None
) -> PreTrainedModel:
    """Return the pretrained model with fresh adapters to train.

    Frozen weights have the precision of training. here: config.model as this node has it
    (origin.on_this_node). seed: of the adapters. sharding: of the frozen weights. peft copies some
    of them for DoRA and modules_to_save, so with these each worker holds all until training begins.
    """
    lora = config.lora
    assert lora is not None
    if lora.use_dora or lora.modules_to_save:
        sharding = None
    base = _base(here, config.dtype, quantized=lora.quantize is not None, sharding=sharding)
    check_targets(base, lora)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _inject(base, _peft_config(base, config.model, lora))


def load_with_adapter(store: Store, folder: str, *, dtype: str) -> PreTrainedModel:
    """Load a checkpoint that is an adapter, from a local folder, with its base.

    The base comes from the run if that has a copy of it. Adapters stay trainable; the rest is
    frozen. ValueError if the adapter does not fit, or if this node does not have the base.
    """
    base = base_of(folder)
    origin = origin_of(base)
    if origin is not None and not Path(origin).is_absolute() and store.manifest(origin) is None:
        origin = None
    try:
        model = _base(on_this_node(store, base, origin), dtype, quantized=_is_quantized(folder))
    except OSError as error:
        raise ValueError(
            f"{folder}: node {socket.gethostname()} does not have the adapter's base "
            f"{base.name!r}: {error}"
        ) from error
    return _with_saved(model, folder)


def is_adapted(model: PreTrainedModel) -> bool:
    """Say whether a model in memory has adapters."""
    return hasattr(model, "peft_config")


def fits(model: PreTrainedModel, folder: str) -> bool:
    """Say whether `swap` can put another adapter into a model: base and settings are the same."""
    if not is_adapted(model) or not is_adapter(folder):
        return False
    quantized = hasattr(model.config, QUANTIZED) == _is_quantized(folder)
    return quantized and _settings(model) == read_json(folder, ADAPTER_CONFIG)


def swap(model: PreTrainedModel, folder: str) -> None:
    """Replace a model's adapter by the one in a folder that `fits`."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    try:
        saved = load_file(Path(folder, WEIGHTS))
    except Exception as error:  # of safetensors
        raise ValueError(f"{folder}: not a complete adapter: {error}") from error
    found = {name.removeprefix(PREFIX): tensor for name, tensor in saved.items()}
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    for names, what in ((wanted.keys() - found, "missing"), (found.keys() - wanted, "unexpected")):
        if names:
            raise ValueError(
                f"{folder}: not a complete adapter: {what} weights {min(names)} ({len(names)} in "
                f"all)"
            )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"{folder}: not a complete adapter: {name} of size {list(tensor.shape)}, expected "
                f"{list(wanted[name].shape)}"
            )
    set_peft_model_state_dict(model, found)


def save_adapter(model: PreTrainedModel, weights: dict[str, Tensor], folder: str) -> None:
    """Write an adapter as peft does, and beside it the config of its base, not as config.json:
    transformers would then expect a whole model.

    weights: of the model, by name; those of the base are not needed.
    """
    from peft import get_peft_model_state_dict

    adapter = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    on_cpu = {
        f"{PREFIX}{name}": tensor.detach().to("cpu").contiguous()
        for name, tensor in adapter.items()
    }
    save_file(on_cpu, Path(folder, WEIGHTS), metadata={"format": "pt"})
    Path(folder, ADAPTER_CONFIG).write_text(json.dumps(_settings(model), indent=2))
    model.config.to_json_file(Path(folder, BASE_CONFIG))


def merged(
    model: PreTrainedModel,
    weights: dict[str, Tensor] | None,
    gathered: Callable[[Iterable[Tensor]], AbstractContextManager[Any]],
) -> Callable[[str], None] | None:
    """Add adapters to the weights that they adapt; return a function that saves the whole model in
    a folder.

    weights: of the model, by name, on the CPU; None on a worker that does not save. gathered: a
    context in which parameters are whole, which all workers enter together.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    whole = weights
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            with gathered(module.parameters()):  # type: ignore[attr-defined]
                weight = None if whole is None else _merged_weight(module)
            inner = "base_layer."
        elif isinstance(module, ModulesToSaveWrapper):
            weight, inner = None, "modules_to_save.default."
        else:
            continue
        if whole is not None:
            own = {key: whole[key] for key in whole if key.startswith(f"{name}.")}
            whole = {key: tensor for key, tensor in whole.items() if key not in own} | {
                key.replace(f"{name}.{inner}", f"{name}."): tensor
                for key, tensor in own.items()
                if key.startswith(f"{name}.{inner}")
            }
            if weight is not None:
                whole[f"{name}.weight"] = weight
    if whole is None:
        return None
    with torch.device("meta"):  # transformers goes by the names of a model without adapters
        plain = AutoModelForCausalLM.from_config(model.config)
    plain.generation_config = model.generation_config
    return partial(plain.save_pretrained, state_dict=whole)


def add_adapters(model: PreTrainedModel, base: ModelConfig, lora: LoraConfig) -> PreTrainedModel:
    """Put fresh adapters into a model, and freeze its own weights."""
    return _inject(model, _peft_config(model, base, lora))


def check_lora(config: TrainingConfig, base: dict[str, Any]) -> None:
    """ValueError if the adapters of a training do not fit its model, whose config is `base`."""
    assert config.lora is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**base))
        check_targets(model, config.lora)
        _inject(model, _peft_config(model, config.model, config.lora))


def _base(
    model: ModelConfig, dtype: str, *, quantized: bool, sharding: Sharding | None = None
) -> PreTrainedModel:
    """Load a base in a precision. quantized: most of it in 4 bits, as QLoRA does (Dettmers et al.
    2023, arXiv 2305.14314): NF4, with quantized scales."""
    precision = getattr(torch, dtype)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision,
    )
    placing = Placing(
        dtype=None if sharding else precision,
        sharding=sharding,
        quantization=four_bits if quantized else None,
    )
    base = initial_model(model, None, seed=0, placing=placing)
    for module in base.modules():
        # On a CPU with AVX-512, bitsandbytes would round the scales once more in eval mode.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return base


def _is_quantized(folder: str) -> bool:
    # A trainer of the user's own does not write the config of the base.
    return Path(folder, BASE_CONFIG).is_file() and QUANTIZED in read_json(folder, BASE_CONFIG)


def _peft_config(model: PreTrainedModel, base: ModelConfig, lora: LoraConfig) -> Any:
    import peft

    assert base.name is not None
    apart, folder = unreached(model), Path(base.name)
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(folder.absolute()) if folder.is_dir() else base.name,
        revision=base.revision,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        exclude_modules=f"({'|'.join(map(re.escape, apart))})\\..*" if apart else None,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        modules_to_save=lora.modules_to_save,
    )


def _inject(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    """Put peft's layers into the model; freeze all weights but theirs."""
    import peft

    model.name_or_path = config.base_model_name_or_path  # peft takes it from here
    try:
        peft.get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"lora.target_modules: {error}") from error
    return model


def _with_saved(base: PreTrainedModel, folder: str) -> PreTrainedModel:
    import peft

    try:
        config = peft.LoraConfig(**read_json(folder, ADAPTER_CONFIG))
    except TypeError as error:
        raise ValueError(f"{Path(folder, ADAPTER_CONFIG)}: not a LoRA adapter: {error}") from error
    config.inference_mode = False
    model = _inject(base, config)
    swap(model, folder)
    return model


def _settings(model: PreTrainedModel) -> dict[str, Any]:
    """What adapter_config.json has: the same bytes from every process."""
    config = copy.copy(model.peft_config["default"])
    config.inference_mode = True
    found = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in sorted(config.to_dict().items())
    }
    return json.loads(json.dumps(found))


def _merged_weight(layer: Any) -> Tensor:
    """The weight with the adapter added, on the CPU. The layer stays as it was, bit for bit."""
    base = layer.get_base_layer()
    before = base.weight.data
    layer.merge(safe_merge=True)  # into a copy
    merged = base.weight.data.to("cpu")
    base.weight.data = before
    layer.merged_adapters.clear()
    return merged
