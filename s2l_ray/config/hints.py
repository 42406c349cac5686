"""The field that somebody means who writes a name that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from s2l_ray.config.base import Section

# What other programs call a field, by its name here. A name counts in sections with that field.
SYNONYMS: dict[str, str] = {
    # sections
    "corpus": "data dataset datasets",
    "proxy": "small_model ref_model reference",
    "target": "large_model",
    "trajectories": "scoring score",
    "clusters": "clustering kmeans",
    "selection": "select selecting",
    "evaluation": "eval evaluate",
    # the run
    "run_dir": "output_dir out_dir outdir output output_path save_dir dir",
    "name": "run_name title model_name model_name_or_path pretrained path id",
    "seed": "random_seed random_state",
    # corpus and prompt
    "path": "data dataset data_path dataset_name dataset_path train_file file files paths",
    "heldout_share": "heldout holdout validation_split validation_share val_size test_size",
    "num_parts": "shards num_shards partitions num_partitions",
    "template": "prompt_template format",
    "max_length": "max_len max_seq_length max_seq_len seq_length seq_len sequence_length "
    "cutoff_len model_max_length block_size context_length",
    # training
    "model": "model_name model_name_or_path base_model",
    "architecture": "config arch",
    "dtype": "torch_dtype precision param_dtype",
    "revision": "commit branch",
    "learning_rate": "lr learningrate peak_lr max_lr",
    "epochs": "epoch num_epochs n_epochs num_train_epochs max_epochs",
    "max_steps": "steps num_steps total_steps train_steps max_train_steps",
    "global_batch_size": "batch_size batchsize bs train_batch_size total_batch_size "
    "effective_batch_size",
    "micro_batch_size": "mbs microbatch_size per_device_batch_size per_device_train_batch_size "
    "per_gpu_batch_size train_micro_batch_size_per_gpu",
    "warmup_share": "warmup warmup_ratio warmup_fraction",
    "weight_decay": "wd decay",
    "optimizer": "optim",
    "max_grad_norm": "clip grad_clip clip_grad gradient_clipping gradient_clip_val max_norm",
    "gradient_checkpointing": "grad_checkpointing activation_checkpointing checkpoint_activations",
    "zero_stage": "zero stage deepspeed_stage",
    "num_checkpoints": "n_checkpoints",
    "checkpoint_every": "save_steps save_every save_interval checkpoint_steps checkpoint_interval",
    "keep_checkpoints": "save_total_limit max_checkpoints keep_last",
    "r": "rank lora_r lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "target_modules": "modules lora_target_modules",
    "use_dora": "dora",
    "use_rslora": "rslora",
    # workers
    "num_workers": "n_workers workers world_size num_processes nproc nproc_per_node",
    "cpus_per_worker": "cpu cpus num_cpus",
    "gpus_per_worker": "gpu gpus num_gpus n_gpus",
    "accelerator_type": "accelerator gpu_type device",
    # scoring, clusters, selection
    "tokens_per_batch": "batch_size batch_tokens",
    "n_clusters": "k num_clusters nclusters clusters",
    "max_iter": "niter n_iter iterations max_iterations",
    "random_state": "seed random_seed",
    "selector": "method strategy algorithm",
    "budget": "size n fraction share ratio subset_size num_examples",
    "export": "exports format formats",
    "seeds": "seed",
    "baselines": "baseline",
    # storage
    "endpoint": "url endpoint_url s3_endpoint",
    "region": "aws_region",
}


def hint(name: str, section: type[Section], top: type[Section]) -> str:
    """Say which field of `section` is meant, or of which other section, or which there are."""
    valid, written = sorted(section.model_fields), name.strip().lower().replace("-", "_")
    known = [field for field in valid if written in SYNONYMS.get(field, "").split()]
    near = difflib.get_close_matches(written, valid, n=1, cutoff=0.8)
    if found := known[:1] or near:
        return f"nearest valid name: {found[0]}"
    if places := [".".join(place) for place in _places(written, top)]:
        return f"valid elsewhere: {', '.join(places)}"
    if near := difflib.get_close_matches(written, valid, n=1, cutoff=0.5):
        return f"nearest valid name: {near[0]}"
    return f"valid names: {', '.join(valid)}"


def section_of(annotation: Any) -> type[Section] | None:
    """Return the class of section that a field holds, if it holds one."""
    choices = [annotation, *get_args(annotation)]
    return next((c for c in choices if isinstance(c, type) and issubclass(c, Section)), None)


def _places(name: str, section: type[Section]) -> Iterator[tuple[str, ...]]:
    """Yield where in the whole configuration a field has this name, or is called so elsewhere."""
    for field, about in section.model_fields.items():
        if field == name or name in SYNONYMS.get(field, "").split():
            yield (field,)
        below = section_of(about.annotation)
        if below is not None and get_origin(about.annotation) is not dict:
            yield from ((field, *place) for place in _places(name, below))
