"""Names and settings that identify models, trainings, tokenizers and selections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_ray.config import (
    ClustersConfig,
    ModelConfig,
    PromptConfig,
    SelectionConfig,
    TrainingConfig,
    fingerprint,
)
from s2l_ray.corpus.families import template_text
from s2l_ray.corpus.files.source import local_stamp

LABELS = 2  # the rule by which chats get their labels


def settings_of(training: TrainingConfig) -> list[Any]:
    """Return what identifies a training, including the files of a model in a local folder and
    the source of a loop of the user's own.

    Excludes how training is distributed or restarted, so changing those never retrains. For the
    same reason trajectories.tokens_per_batch identifies no scoring: it moves the last digits of a
    loss, in bf16 by up to 2e-4.
    """
    operations = {"workers", "min_workers", "max_workers", "max_failures"}
    operations |= {"resume_every", "micro_batch_size", "keep_checkpoints"}
    settings = {k: v for k, v in training.settings().items() if k not in operations}
    return [settings, *local_files(training.model), *_own_loop(training)]


def clusters_settings(clusters: ClustersConfig) -> dict[str, Any]:
    """Return what identifies a clustering: not how many actors do it, nor what is told of it."""
    no_matter = {"num_actors", "stability"}
    if clusters.init == "official":  # always so many iterations
        no_matter |= {"max_iter", "tol"}
    return {k: v for k, v in clusters.settings().items() if k not in no_matter}


def _own_loop(training: TrainingConfig) -> list[str]:
    if training.train is None:
        return []
    from s2l_ray.training.own import own_loop

    return [own_loop(training.train)[1]]


def tokenizer_folder(trained_on: str, model: ModelConfig, prompt: PromptConfig) -> str:
    """Return the folder of a model's tokenizer. trained_on: the fingerprint of the corpus, which
    identifies a tokenizer that is trained; any other is identified by its name and files, and by
    prompt.chat_template if that replaces its own."""
    source = [model.tokenizer_vocab, model.tokenizer or model.name, model.revision]
    source += local_files(model)
    if prompt.chat_template is not None:
        source.append(template_text(prompt.chat_template))
    return f"tokenizers/{fingerprint(*source, trained_on if model.tokenizer_vocab else None)}"


def prompt_settings(prompt: PromptConfig) -> dict[str, Any]:
    """Return what identifies how text is made, beside the tokenizer and its chat template."""
    found = prompt.model_dump(mode="json", exclude={"chat_template"})
    return found | ({"labels": LABELS} if prompt.template == "chat" else {})


def local_files(model: ModelConfig) -> list[str]:
    """Return name and stamp of each file of a model or tokenizer in a local folder. A hub model is
    identified by its name and revision."""
    found = []
    for place in (model.name, model.tokenizer):
        if place is not None and Path(place).is_dir():
            for file in sorted(path for path in Path(place).iterdir() if path.is_file()):
                about = file.stat()
                stamp = local_stamp(str(file.resolve()), about.st_size, about.st_mtime_ns)
                found.append(f"{file.name} {stamp}")
    return found


def selection_name(selector: str, seed: int) -> str:
    """Return the name of a selection's folder, such as s2l-seed0."""
    return f"{file_name(selector)}-seed{seed}"


def file_name(selector: str) -> str:
    """Return a selector's name as a part of file names: s2l@0.5 is s2l-0.5."""
    return selector.replace(":", ".").replace("@", "-")


def liked(selection: SelectionConfig) -> SelectionConfig:
    """Return the selection that another one resembles (selection.like)."""
    return selection.model_copy(update={"selector": selection.like})
