"""Targets fine-tuned on subsets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ray

from s2l_ray.config import TrainingConfig
from s2l_ray.corpus.pretrained import load_config
from s2l_ray.corpus.tokenization import check_tokenizer
from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.execution.connect import when_connected
from s2l_ray.execution.hub import only_cached
from s2l_ray.execution.remote import get
from s2l_ray.models.origin import keep_model
from s2l_ray.pipeline.identity import local_files, prompt_settings, selection_name
from s2l_ray.pipeline.memory import check_memory
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.pipeline.subset import prepare, select
from s2l_ray.pipeline.target_stages import target_stage
from s2l_ray.pipeline.tokens import prepare_tokenizer
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import checkpoint_name, checkpoints_of, write_initial
from s2l_ray.training.resume import TrainingState


def finetune(
    run: Run, examples: Manifest, name: str, *, seed: int, training: TrainingConfig | None = None
) -> Manifest:
    """Fine-tune the target on examples. training: other settings than config.target."""
    return run.get(target_stage(run.plan, name, examples, seed=seed, training=training))


def untuned_stage(plan: Plan, name: str, *, seed: int) -> Stage:
    """Declare the target as it is before training: one checkpoint, step 0.

    seed: of the initial weights of a model from scratch. The weights of a pretrained model are not
    copied. Adapters start as zero, so they change nothing and are left out.
    """
    assert plan.config.target is not None
    model, prompt = plan.config.target.model, plan.config.target_prompt or plan.config.prompt
    own_seed = None if model.name else seed

    def make(run: Run, *, folder: str, fingerprint: str) -> Manifest:
        info = TrainingState(checkpoints=[0], workers=0).as_info()
        del info["files"], info["weights"]
        origin = keep_model(run.store, model)
        if origin is not None:
            return run.store.commit(folder, fingerprint, [], info | {"folders": [origin]})
        tokenizer = prepare_tokenizer(plan, run, model, prompt).folder
        start = TrainingConfig(model=model)
        checkpoint = f"{folder}/{checkpoint_name(0)}"
        ray.get(write_initial.remote(run.store, start, origin, tokenizer, seed, checkpoint))
        written = run.store.manifest(checkpoint)
        assert written is not None
        parts = [
            replace(file, unit=path, file=path)
            for file in written.files
            for path in [f"{checkpoint_name(0)}/{file.file}"]
        ]
        return run.store.commit(folder, fingerprint, parts, info)

    return Stage(
        f"targets/{name}",
        alone(make),
        inputs=(plan.corpus,),  # a tokenizer may be trained on it
        settings=("untuned", model, *local_files(model), prompt_settings(prompt), own_seed),
    )


def finetune_selected(run: Run) -> tuple[Manifest, str]:
    """Fine-tune the target on the configured selection; return the stage and the target's name."""
    choice, target = run.config.selection, run.config.target
    assert target is not None
    if not run.done:
        prepare(run)
    prompt = run.config.target_prompt or run.config.prompt

    def check() -> None:
        check_target(target)
        kept = prepare_tokenizer(run.plan, run, target.model, prompt)
        check_tokenizer(prompt, load_tokenizer(run.store, kept.folder))

    # Refuse before the proxy, not after it, a target that cannot be had or its prompt.
    when_connected(check)
    check_memory(run, "target", target)
    selection = select(None, run.config, run=run)
    name = selection_name(choice.selector, choice.seed)
    return finetune(run, selection.manifest, name, seed=choice.seed), name


def check_target(target: TrainingConfig) -> None:
    """ValueError if the adapters of a target do not fit its model, or DeepSpeed its settings."""
    if target.deepspeed:
        # It imports torch and DeepSpeed.
        from s2l_ray.training.engines.settings import check_deepspeed_settings

        check_deepspeed_settings(target)
    if target.lora is not None:
        name = target.model.name
        try:  # here, since nodes may have no access to the hub
            assert name is not None
            found = load_config(name, target.model.revision, local_files_only=only_cached(name))
        except (OSError, ValueError) as error:
            raise ValueError(f"target.model: {name!r} cannot be used: {error}") from error
        get(_check_lora.remote(target, found.to_dict()))


@ray.remote(num_cpus=1)
def _check_lora(training: TrainingConfig, base: dict[str, Any]) -> None:
    # Imported here alone: the driver starts without torch.
    from s2l_ray.models.adapters import check_lora

    check_lora(training, base)


def model_path(run: Run, target: Manifest) -> str:
    """Return the folder of the tuned model, for AutoModelForCausalLM.from_pretrained."""
    return run.store.address(max(checkpoints_of(target).items())[1])
