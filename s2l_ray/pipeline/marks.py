"""What identifies each stage of a run: fingerprints of its settings and of what it is made from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from s2l_ray.config import (
    ModelConfig,
    PromptConfig,
    RunConfig,
    SelectionConfig,
    SelectorName,
    TrainingConfig,
    fingerprint,
)
from s2l_ray.corpus.sources import local_stamp
from s2l_ray.selection.selectors import SELECTORS

_stamp = lru_cache(local_stamp)  # asked for once a stage


def marks_of(config: RunConfig, origin: str) -> dict[str, str]:
    """The fingerprint of each stage up to the selection, by name, in order.

    origin: the fingerprint of the corpus's sources.
    """
    examples = fingerprint(origin)
    tokens = tokens_mark(examples, examples, config.proxy.model, config.prompt)
    marks = {"corpus": examples, "tokens": tokens} | trajectories_marks(config, tokens)
    return marks | selection_marks(config, config.selection, marks)


def trajectories_marks(config: RunConfig, tokens: str) -> dict[str, str]:
    """The fingerprint of each stage after the tokens and up to the trajectories."""
    proxy = fingerprint(tokens, *settings_of(config.proxy), config.seed)
    losses = fingerprint(proxy, tokens, config.trajectories.dtype)
    details = details_marks(config, config.selection, {"tokens": tokens, "proxy": proxy})
    return {"proxy": proxy, **details, "losses": losses, "trajectories": fingerprint(losses)}


def details_wanted(config: RunConfig, selection: SelectionConfig) -> dict[str, tuple[str, ...]]:
    """The columns to make together, by "early" and "final": what this selection asks for, and what
    those do that the run names, its own and the baselines."""
    named = [config.selection, selection]
    like = config.selection.like
    named += [
        SelectionConfig(selector=selector, like=like) for selector in config.evaluation.baselines
    ]
    named += [liked(each) for each in named if SELECTORS[each.selector].like]
    columns: dict[str, set[str]] = {"early": set(), "final": set()}
    for each in named:
        for when, details in SELECTORS[each.selector].details.items():
            columns[when].update(details)
    return {when: tuple(sorted(details)) for when, details in columns.items() if details}


def details_marks(
    config: RunConfig, selection: SelectionConfig, marks: Mapping[str, str]
) -> dict[str, str]:
    """The fingerprint of each stage of details, by name. marks: of the tokens and the proxy."""
    return {
        f"details/{when}": _details_mark(config, marks, when, columns)
        for when, columns in details_wanted(config, selection).items()
    }


def _details_mark(
    config: RunConfig, marks: Mapping[str, str], when: str, columns: tuple[str, ...]
) -> str:
    dtype = config.trajectories.dtype
    return fingerprint(marks["proxy"], marks["tokens"], dtype, "details", when, columns)


def tokens_mark(examples: str, trained_on: str, model: ModelConfig, prompt: PromptConfig) -> str:
    return fingerprint(examples, tokenizer_folder(trained_on, model), prompt)


def tokenizer_folder(trained_on: str, model: ModelConfig) -> str:
    # A tokenizer trained here is a function of the corpus; another's is what its name says.
    source = [model.tokenizer_vocab, model.tokenizer or model.name, model.revision]
    source += _local_files(model)
    return f"tokenizers/{fingerprint(*source, trained_on if model.tokenizer_vocab else None)}"


def selection_marks(
    config: RunConfig, selection: SelectionConfig, marks: Mapping[str, str]
) -> dict[str, str]:
    """The fingerprint of each stage that a selection takes after the trajectories, its own last.

    marks: of the tokens, the proxy and the trajectories. Of details a selection is known by those
    that it asks for, whatever others were made with them. (What else it is written as,
    selection.export, is no matter to what is made from it: see `chosen_mark`.)
    """
    selector, found = SELECTORS[selection.selector], dict[str, str]()
    inputs = [marks["trajectories"]]
    if selector.like:
        found |= selection_marks(config, liked(selection), marks)
        inputs.append(list(found.values())[-1])
    if selector.before:
        proxy, dtype = config.proxy.model, config.trajectories.dtype
        files = _local_files(proxy)
        found["before"] = fingerprint(marks["tokens"], proxy, *files, config.seed, dtype)
        inputs.append(found["before"])
    if selector.details:
        found |= details_marks(config, selection, marks)
        inputs += [
            _details_mark(config, marks, when, columns)
            for when, columns in selector.details.items()
        ]
    if selector.groups == "clusters_of_falls":
        found["falls"] = inputs[0] = fingerprint(inputs[0], "falls")
    if selector.groups == "clusters_of_features":
        found["features"] = inputs[0] = fingerprint(*inputs, "features")
    if selector.clustered:
        clusters = config.clusters.model_dump(exclude={"num_actors", "stability"})
        mark = fingerprint(inputs[0], clusters, selector.groups)
        # With the agreement of another seed beside them they are the same clusters.
        found[selector.groups] = fingerprint(mark, config.clusters.stability)
        inputs[0] = mark
    elif selector.ranked:
        settings: list[Any] = [config.clusters.n_clusters if selector.groups == "strata" else 1]
        if selector.covers:
            settings = [selection.budget]
            if selection.selector == "k_center":  # the other begins with no drawn example
                settings.append(selection.seed)
        name = f"rankings/{selection.selector}"
        found[name] = fingerprint(*inputs, selection.selector, *settings)
        inputs = [found[name], *inputs[1:]]
    name = f"selections/{selection_name(selection.selector, selection.seed)}"
    own = selection.model_dump(exclude=set() if selector.like else {"like"})
    return found | {name: fingerprint(*inputs, own)}


def chosen_mark(config: RunConfig, selection: SelectionConfig, marks: Mapping[str, str]) -> str:
    """Of the examples that a selection chooses; marks as `selection_marks` has them."""
    alone = selection.model_copy(update={"export": []})
    return list(selection_marks(config, alone, marks).values())[-1]


def liked(selection: SelectionConfig) -> SelectionConfig:
    """The selection that another is to be like."""
    return selection.model_copy(update={"selector": selection.like, "export": []})


def settings_of(training: TrainingConfig) -> list[Any]:
    """What identifies a training, the files of a model in a local folder included. Not how it is
    spread and restarted: an unfinished run goes on with another number of workers, a finished one
    is not trained anew for it. So it is with trajectories.tokens_per_batch, to be lowered where
    memory runs out: it moves the last digits of losses, of some in bf16 by 2e-4."""
    operations = {"workers", "max_workers", "max_failures", "resume_every", "micro_batch_size"}
    return [training.model_dump(mode="json", exclude=operations), *_local_files(training.model)]


def _local_files(model: ModelConfig) -> list[str]:
    """Name and stamp of each file of a model, or of its tokenizer, in a local folder; none of a
    hub's, which goes by its name and revision."""
    found = []
    for place in (model.name, model.tokenizer):
        if place is not None and Path(place).is_dir():
            for file in sorted(path for path in Path(place).iterdir() if path.is_file()):
                about = file.stat()
                stamp = _stamp(str(file.resolve()), about.st_size, about.st_mtime_ns)
                found.append(f"{file.name} {stamp}")
    return found


def selection_name(selector: SelectorName, seed: int) -> str:
    return f"{selector}-seed{seed}"
