"""Cheap checks of what a configuration names, before Ray, torch or transformers is imported.

They read names, sizes and headers, write nothing and take well under two seconds. What only reading
tells is checked by the stages.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from s2l_ray.config import BUILT_IN_SELECTORS, RACE, CorpusConfig, RunConfig
from s2l_ray.corpus.families import template_text
from s2l_ray.corpus.mapping import row_map_of
from s2l_ray.corpus.minhash import NO_PACKAGE
from s2l_ray.corpus.purpose import MISSING, purpose_config
from s2l_ray.corpus.sources import resolve
from s2l_ray.execution.trackers.tracking import faults as faults_of_trackers
from s2l_ray.models.files import folder_fault, has_chat_template, hub_fault, result_fault
from s2l_ray.store import Store, preflight


def check(
    config: RunConfig,
    *,
    corpus: bool = True,
    targets: bool = False,
    heldout: bool = False,
    diagnosis: bool = False,
    afresh: bool = False,
) -> None:
    """Raise ValueError with every fault found, one per line.

    corpus: the run reads corpus.path. targets: it fine-tunes targets. heldout: it evaluates on
    held-out examples. diagnosis: it varies the proxy. afresh: a corpus that grows begins again.
    """
    if config.selection.selector == RACE and config.selection.race.model == "target":
        targets = True
    faults = [
        *_run_dir(config),
        *_models(config, targets, diagnosis),
        *_adapters(config, targets),
        *_prompts(config, targets),
        *_near_duplicates(config),
        *_extensions(config, targets, heldout),
        *_given(config, heldout, diagnosis),
        *_purpose(config, heldout),
        *faults_of_trackers(config.trackers, config.run_dir),
    ]
    faults += _sources(config, corpus, heldout, thorough=not faults)
    if corpus and config.corpus.grow and not afresh and not faults:
        from s2l_ray.pipeline.growth import grown_corpus  # imports Ray

        grown_corpus(config)
    if faults:
        raise ValueError("\n".join(faults))


def _run_dir(config: RunConfig) -> Iterator[str]:
    if "://" in config.run_dir:
        try:
            preflight.check(Store(config.run_dir, config.storage))
        except (ValueError, OSError) as error:
            yield str(error)
        return
    folder = Path(config.run_dir).expanduser().absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        yield f"run_dir: {config.run_dir}: {there} is not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"run_dir: {config.run_dir}: no permission to write in {there}"


def _models(config: RunConfig, targets: bool, diagnosis: bool) -> Iterator[str]:
    models = {"proxy.model": config.proxy.model}
    if config.target is not None and (targets or (diagnosis and config.diagnose.gradients)):
        models["target.model"] = config.target.model
    if diagnosis:
        models |= {
            f"diagnose.proxies.{name}": each for name, each in config.diagnose.proxies.items()
        }
    for section, model in models.items():
        for field, name in (("name", model.name), ("tokenizer", model.tokenizer)):
            if name is None:
                continue
            if Path(name).is_dir():
                fault = folder_fault(Path(name), weights=field == "name")
            else:
                fault = hub_fault(name, model.revision, weights=field == "name")
            if fault:
                yield f"{section}.{field}: {name!r}: {fault}"


def _adapters(config: RunConfig, targets: bool) -> Iterator[str]:
    """Look for the packages that adapters need."""
    for section, training in (("proxy", config.proxy), ("target", config.target)):
        if training is None or training.lora is None or (section == "target" and not targets):
            continue
        needed = {"peft": "lora"} | ({"bitsandbytes": "qlora"} if training.lora.quantize else {})
        for package, extra in needed.items():
            if find_spec(package) is None:
                yield (
                    f"{section}.lora: the package {package} is not installed; run "
                    f'pip install "s2l-ray[{extra}]" here and on every node, or leave out '
                    f"{section}.lora"
                )
                break


def _prompts(config: RunConfig, targets: bool) -> Iterator[str]:
    """Find the chat templates, those of a model in a local folder among them."""
    used = [("prompt", config.prompt, config.proxy.model)]
    if targets and config.target is not None:
        section = "target_prompt" if config.target_prompt else "prompt"
        used.append((section, config.target_prompt or config.prompt, config.target.model))
    for section, prompt, model in used:
        name = model.tokenizer or model.name
        if prompt.chat_template is not None:
            yield from _fault_of(template_text, prompt.chat_template)
            continue
        folder = Path(name) if prompt.template == "chat" and name else None
        if folder and folder.is_dir() and not has_chat_template(folder):
            yield (
                f"{section}.template chat: {name!r} has no chat template; set "
                f"{section}.chat_template to a file or a family"
            )


def _near_duplicates(config: RunConfig) -> Iterator[str]:
    """Look for the package that finds near-duplicates."""
    if config.selection.near_duplicates is not None and find_spec("datasketch") is None:
        yield NO_PACKAGE


def _extensions(config: RunConfig, targets: bool, heldout: bool) -> Iterator[str]:
    """Import the user's own code that settings name."""
    for name in _selectors(config, heldout):
        if name not in BUILT_IN_SELECTORS:
            from s2l_ray.selection.selectors import selector_named  # imports NumPy and Ray

            yield from _fault_of(selector_named, name)
    yield from _fault_of(row_map_of, config.corpus)
    if targets and config.target is not None and config.target.train:
        from s2l_ray.training.own import own_loop  # imports Ray

        yield from _fault_of(own_loop, config.target.train)


def _selectors(config: RunConfig, heldout: bool) -> list[str]:
    found = [each.selector for each in config.selection.contenders]
    if RACE in [*config.evaluation.baselines, *config.compare.selectors, *config.compare.also]:
        found += config.selection.race.candidates
    if heldout:
        found += [*config.evaluation.baselines, *config.compare.selectors, *config.compare.also]
        found += [name for pair in config.compare.mixed for name in pair]
    return list(dict.fromkeys(found))


def _given(config: RunConfig, heldout: bool, diagnosis: bool) -> Iterator[str]:
    """Check losses or checkpoints of another training, and what needs a proxy of the run's own."""
    if diagnosis and not config.trains_proxy:
        yield "diagnose varies the proxy's training: leave out losses and proxy.checkpoints"
    for checkpoint in config.proxy.checkpoints or ():
        if Path(checkpoint).is_dir():
            fault = result_fault(Path(checkpoint))
        elif config.proxy.model.name is None or Path(config.proxy.model.name).is_dir():
            fault = "there is no such folder, and proxy.model.name is not a model on the hub"
        else:
            fault = hub_fault(config.proxy.model.name, checkpoint, weights=True)
        if fault:
            yield f"proxy.checkpoints: {checkpoint!r}: {fault}"
    if config.trains_proxy:
        return
    from s2l_ray.scoring.loss_files import find, key_of
    from s2l_ray.selection.kinds import OUT_OF_FOLD, Cluster
    from s2l_ray.selection.selectors import selector_named  # imports NumPy and Ray

    if config.losses is not None:
        try:
            key_of(config.losses, find(config.losses.path, config.storage))
        except (ValueError, OSError) as error:
            yield str(error)
    for name in _selectors(config, heldout):
        selector = selector_named(name)
        if isinstance(selector, Cluster) and selector.groups in OUT_OF_FOLD:
            yield (
                f"selector {name} trains two proxies of its own, each on half of the corpus: leave "
                "out losses and proxy.checkpoints, or choose another selector"
            )
        if selector.toward == "path":
            yield (
                f"selector {name} trains a proxy of its own, on the examples of selection.toward: "
                "leave out losses and proxy.checkpoints, or choose another selector"
            )
        if config.losses is None:
            continue
        needs = [*selector.details]
        needs += [name for name in ("before", "without_prompt") if getattr(selector, name)]
        needs += ["losses of the purpose's examples"] if selector.toward == "shares" else []
        if needs:
            yield (
                f"losses: selector {name} needs more than losses ({', '.join(needs)}): expected "
                "the run's own proxy; leave out losses, or choose another selector"
            )


def _purpose(config: RunConfig, heldout: bool) -> Iterator[str]:
    """Look for the examples of a purpose where a selector needs them, and the reverse."""
    from s2l_ray.selection.selectors import selector_named  # imports NumPy and Ray

    given = config.selection.toward is not None
    names = _selectors(config, heldout) if not given else _selectors(config, True)
    if not given and not any("toward" in name or ":" in name for name in names):
        return
    wanting = [name for name in names if not _faults_of(name) and selector_named(name).toward]
    if wanting and not given:
        yield MISSING
    if given and not wanting:
        yield (
            f"selection.toward: no selector of the run uses it (selection.selector is "
            f"{config.selection.selector}): choose toward or toward_path, or leave it out"
        )


def _faults_of(name: str) -> list[str]:
    """What keeps a selector from being imported; _extensions tells it."""
    from s2l_ray.selection.selectors import selector_named

    return list(_fault_of(selector_named, name))


def _sources(config: RunConfig, corpus: bool, heldout: bool, *, thorough: bool) -> Iterator[str]:
    os.environ.update(config.storage.environment())  # for pyarrow, which lists remote folders
    if corpus:
        yield from _fault_of(_find, config.corpus, thorough)
    if config.selection.toward is not None:
        for fault in _fault_of(lambda: _find(purpose_config(config), thorough)):
            yield f"selection.toward: {fault}"
    evaluation = config.evaluation
    few_shot = {} if evaluation.few_shot is None else {"few_shot": evaluation.few_shot}
    kinds = {"files": evaluation.files, "answers": evaluation.answers, "texts": evaluation.texts}
    evaluates = heldout or config.selection.selector == RACE
    for kind, files in (kinds | {"few_shot": few_shot}).items():
        for name, path in files.items() if evaluates else ():
            settings = CorpusConfig(path=path, split=evaluation.split)
            for fault in _fault_of(_find, settings, thorough):
                field = kind if kind == name else f"{kind}: {name}"
                yield f"evaluation.{field}: {fault}"


def _find(config: CorpusConfig, thorough: bool) -> None:
    """Find the files of a corpus. Of a dataset of a hub, only see whether it is there.

    thorough: also look into what exists. For many files it takes longer, since small ones are
    identified by their content.
    """
    paths = [config.path] if isinstance(config.path, str) else config.path
    here = [path for path in paths if not path.startswith("hf://")]
    for path in paths:
        if path.startswith("hf://"):
            from s2l_ray.corpus.files.hub import dataset_fault  # imports an HTTP client: 0.5 s

            if fault := dataset_fault(path):
                raise ValueError(fault)
    if not thorough:
        local = [path for path in here if "://" not in path and not glob.has_magic(path)]
        here = [path for path in local if not os.path.exists(os.path.expanduser(path))]
    if here:
        resolve(config.model_copy(update={"path": here}))


def _fault_of(function: Callable[..., Any], *args: Any) -> Iterator[str]:
    try:
        function(*args)
    except ValueError as error:
        yield str(error)
