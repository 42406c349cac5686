"""DeepSpeed's own settings in a training: which are allowed, and which are ours."""

from __future__ import annotations

import difflib
from typing import Any

# DeepSpeed's name -> the field to set instead.
OWNED = {
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch_size",
    "gradient_accumulation_steps": "global_batch_size, micro_batch_size and workers.num_workers",
    "gradient_clipping": "max_grad_norm",
    "optimizer": "optimizer, learning_rate and weight_decay",
    "scheduler": "learning_rate and warmup_share",
    "bf16": "model.dtype",
    "bfloat16": "model.dtype",
    "fp16": "model.dtype",
    "amp": "model.dtype",
    "torch_autocast": "model.dtype",
    "data_types": "model.dtype",
    "zero_optimization.stage": "zero_stage",
    "zero_optimization.offload_optimizer.device": "offload_optimizer",
    "checkpoint": "resume_every",
    "load_universal_checkpoint": "resume_every",
}

# DeepSpeed's name -> why it stays as it is.
FIXED = {
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": "checkpoints need it",
    "zero_force_ds_cpu_optimizer": "the optimizer is torch's",
    "steps_per_print": "the loss is shown and recorded already",
    "elasticity": "a training resumes with any number of workers",
}

# DeepSpeed 0.19 ignores a name that it does not know.
ALLOWED = {
    "activation_checkpointing", "aio", "comet", "comms_logger", "communication_data_type",
    "csv_monitor", "disable_allgather", "dump_state", "flops_profiler",
    "gradient_predivide_factor", "memory_breakdown", "prescale_gradients",
    "seq_parallel_communication_data_type", "sparse_gradients", "tensorboard", "timers", "wandb",
    "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_optimization",
}  # fmt: skip


def check_deepspeed(settings: dict[str, Any], *, offload_optimizer: bool) -> None:
    """Raise ValueError for settings that another field owns, or that DeepSpeed does not know."""
    for name in settings:
        if name not in {*ALLOWED, *OWNED, *FIXED}:
            near = difflib.get_close_matches(name, sorted(ALLOWED), n=1, cutoff=0.5)
            hint = f"; nearest valid name: {near[0]}" if near else ""
            raise ValueError(f"deepspeed.{name}: there is no such setting{hint}")
    zero = settings.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ValueError(f"deepspeed.zero_optimization: expected settings by name, got {zero!r}")
    for name in _names(settings):
        if field := OWNED.get(name):
            raise ValueError(f"deepspeed.{name}: leave it out, and set {field}")
        if reason := FIXED.get(name):
            raise ValueError(f"deepspeed.{name}: leave it out: {reason}")
    if "offload_optimizer" in zero and not offload_optimizer:
        raise ValueError(
            "deepspeed.zero_optimization.offload_optimizer: set offload_optimizer: true beside it"
        )


def _names(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """List the names of all settings, those of a section as section.name."""
    found = []
    for name, value in settings.items():
        found.append(f"{prefix}{name}")
        if isinstance(value, dict):
            found += _names(value, f"{prefix}{name}.")
    return found
