"""Models, their adapters, and the Ray resources of a stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from s2l_ray.config.base import Section
from s2l_ray.config.model_sizes import sizes_fault
from s2l_ray.config.values import Positive, Share


class ModelConfig(Section):
    """A causal language model: pretrained (name), or to train from scratch (architecture)."""

    name: str | None = Field(
        None,
        description="Pretrained model: a name on the Hugging Face Hub, or a folder in its format. "
        "`null` if `architecture` is set.",
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of the model and tokenizer on the hub. `null` means the "
        "main branch.",
    )
    architecture: dict[str, Any] | None = Field(
        None,
        description="Model to train from scratch: `model_type`, and the fields of that type's "
        "Hugging Face config. `null` if `name` is set.",
    )
    tokenizer_vocab: Annotated[int, Field(ge=300)] | None = Field(
        None,
        description="From scratch: vocabulary size of a byte-level BPE tokenizer to train on the "
        "corpus. `null` if `tokenizer` is set.",
    )
    tokenizer: str | None = Field(
        None,
        description="From scratch: an existing tokenizer, by hub name or folder. `null` if "
        "`tokenizer_vocab` is set.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="Precision of training. `bfloat16` keeps float32 master weights. `auto` is "
        "`bfloat16` for workers with a GPU, which is refused if that GPU lacks it, and `float32` "
        "for others.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> ModelConfig:
        if (self.name is None) == (self.architecture is None):
            raise ValueError("give either name (pretrained) or architecture (from scratch)")
        if self.architecture is not None:
            if "model_type" not in self.architecture:
                raise ValueError("architecture lacks model_type, such as gpt_neox or llama")
            if fault := sizes_fault(self.architecture):
                raise ValueError(f"architecture.{fault}")
            if (self.tokenizer is None) == (self.tokenizer_vocab is None):
                raise ValueError("a model from scratch needs tokenizer or else tokenizer_vocab")
        elif self.tokenizer is not None or self.tokenizer_vocab is not None:
            raise ValueError("a pretrained model brings its own tokenizer")
        return self


class LoraConfig(Section):
    """LoRA: small adapters are trained, and the pretrained weights stay as they are.

    Names and defaults are those of `peft.LoraConfig`. Needs `pip install "s2l-ray[lora]"`.
    """

    r: Positive = Field(8, description="Rank of an adapter's two matrices.")
    alpha: Positive = Field(
        8,
        description="Adapters are scaled by `alpha / r` (peft's `lora_alpha`).",
    )
    dropout: Share = Field(
        0.0, description="Dropout of an adapter's input, from 0 to below 1 (peft's `lora_dropout`)."
    )
    target_modules: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Layers that get an adapter: a list of names, such as `[q_proj, v_proj]`; "
        "`all-linear`, for all linear layers but the output head; or a regular expression that "
        "full names match. `null` takes peft's choice for the type of model.",
    )
    use_dora: bool = Field(
        False,
        description="DoRA: also train the length of each row of the adapted weights. Slower; helps "
        "at low `r`.",
    )
    use_rslora: bool = Field(
        False, description="Scale adapters by `alpha / sqrt(r)`, which is steadier at high `r`."
    )
    modules_to_save: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Modules that are trained whole and saved with the adapter, such as "
        "`[embed_tokens, lm_head]` for new tokens.",
    )
    quantize: Literal["4bit"] | None = Field(
        None,
        description="QLoRA: keep the pretrained weights in 4 bits (bitsandbytes' NF4), in training "
        'and in scoring. Needs `pip install "s2l-ray[qlora]"`, `merge: false` and no '
        "`zero_stage` 3. Tested on CPUs, untested on GPUs.",
    )
    merge: bool = Field(
        False,
        description="Write checkpoints as whole models, with the adapter added to the weights. "
        "`false` writes adapters, a few MB each.",
    )


class WorkersConfig(Section):
    """Ray resources of a stage."""

    num_workers: Positive = Field(1, description="Number of workers or actors.")
    cpus_per_worker: Annotated[float, Field(gt=0)] = Field(
        1, description="CPUs that each worker reserves."
    )
    gpus_per_worker: Annotated[float, Field(ge=0)] = Field(
        0,
        description="GPUs that each worker reserves: 0 or 1 in training. In scoring also a share "
        "of one, or a whole number above 1, over which the model's layers are spread (untested on "
        "GPUs).",
    )
    accelerator_type: str | None = Field(
        None,
        description="Ray's name of the GPU that a node must have, such as `A100`. `null` takes any "
        "node.",
    )

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"expected a whole number of GPUs above 1, got {value:g}")
        return value
