"""The config.json of a pretrained model, which a stranger may have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s2l_ray.config.model_sizes import sizes_fault

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def load_config(name: str, revision: str | None, **options: Any) -> PretrainedConfig:
    """Load the config of a model in a folder or on the hub. No code of it is run.

    options: of from_pretrained. ValueError if its sizes are out of bounds. They are checked first,
    since even building the config makes lists of these sizes.
    """
    from transformers import AutoConfig, PretrainedConfig

    fields, _ = PretrainedConfig.get_config_dict(name, revision=revision, **options)
    if fault := sizes_fault(fields):
        raise ValueError(f"{name}: config.json: {fault}")
    return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False, **options)


def check_weights(config: Any) -> None:
    """Raise ValueError if the model's weights are quantized: they cannot be trained."""
    for each in (config, config.get_text_config()):
        if how := getattr(each, "quantization_config", None):
            method = how.get("quant_method") if isinstance(how, dict) else how.quant_method
            raise ValueError(
                f"{config.name_or_path}: expected full-precision weights, got quantized ones "
                f"({method})"
            )
