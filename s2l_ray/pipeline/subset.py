"""From the corpus to the subset, as one straight line."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.config import RACE, CorpusConfig, RunConfig, SelectionConfig
from s2l_ray.corpus.derived import FOLDS
from s2l_ray.corpus.given import check_given, dataset_of
from s2l_ray.execution.connect import connect
from s2l_ray.execution.parts import fold_parts
from s2l_ray.pipeline import preflight
from s2l_ray.pipeline.copies import left_out
from s2l_ray.pipeline.memory import check_memory
from s2l_ray.pipeline.plan import Plan, corpus_stage
from s2l_ray.pipeline.race import prepare_race
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.selection import Selection
from s2l_ray.pipeline.stage import walk
from s2l_ray.pipeline.to_do import announce
from s2l_ray.pipeline.told import budget_told, corpus_told, tokens_told
from s2l_ray.selection.choose import examples_for
from s2l_ray.selection.exports.stage import check_exports
from s2l_ray.selection.kinds import OUT_OF_FOLD, Cluster
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.views import CorpusView, TokensView
from s2l_ray.training.checkpoints import checkpoint_steps, num_steps

if TYPE_CHECKING:
    import datasets
    import ray.data

logger = logging.getLogger(__name__)


def select(
    dataset: ray.data.Dataset | datasets.Dataset | str | Path | list[str] | None,
    config: RunConfig,
    *,
    run: Run | None = None,
) -> Selection:
    """Select a subset of a corpus: of a Ray Dataset, of a Dataset of the library `datasets`, of the
    files of a path (in place of config.corpus.path), or of config.corpus.path itself if it is None.

    Rows of a dataset have the shapes that corpus files have (instruction/output, messages, …). A
    Ray Dataset is read twice, so it should be quick to read and the same each time: materialize()
    it otherwise. One of `datasets` is copied into Ray's object store.
    """
    if isinstance(dataset, str | Path | list):
        paths = [str(path) for path in dataset] if isinstance(dataset, list) else str(dataset)
        corpus = CorpusConfig.model_validate(config.corpus.model_dump() | {"path": paths})
        config, dataset = config.model_copy(update={"corpus": corpus}), None
    if run is None:
        check_given(dataset)
        preflight.check(config, corpus=dataset is None)
        connect(config.storage)  # the caller goes on with Ray
        with Run.start(config) as run:
            return run.finish(lambda run: select(dataset, config, run=run))
    if dataset is not None or not run.done:
        prepare(run, dataset_of(dataset))
    check_reachable(config, run.store, run.get(run.plan.tokens), left_out(run))
    _check_export(run)
    selection = choose_subset(run, config.selection)
    stages = run.plan.exports(config.selection)
    made = run.get_all(stages.values())
    for handed_out in (selection.manifest, *made):
        check_content(run.store, handed_out)  # other programs read the files as they are
    folders = {
        name: run.store.address(manifest.folder)
        for name, manifest in zip(stages, made, strict=True)
    }
    return replace(selection, exports=folders)


def prepare(run: Run, dataset: ray.data.Dataset | None = None) -> None:
    """Read the corpus and tokenize it for the proxy. Says first what is to do."""
    run.plan = Plan(run.config, corpus_stage(run.config, dataset))
    announce(run.store, run.expect())
    tokens = TokensView(run.get(run.plan.tokens))
    corpus = run.get(run.plan.corpus)
    for line in [
        *corpus_told(
            run.config.corpus, CorpusView(corpus), run.store.address(corpus.folder, "rejected")
        ),
        *tokens_told(tokens),
        *budget_told(run.config, tokens),
    ]:
        logger.info(line)
    wanted = run.plan.selection(run.config.selection)
    trainings = [stage for stage in walk([wanted]) if stage.work.passes == "training"]
    if any(run.is_to_do(stage, wanted) for stage in trainings):
        check_memory(run, "proxy", run.config.proxy)
    if run.config.selection.selector == RACE:
        prepare_race(run)


def choose_subset(run: Run, choice: SelectionConfig) -> Selection:
    """Choose one selector's subset, after all that it takes."""
    return Selection(run.store, run.get(run.plan.selection(choice)))


def check_reachable(config: RunConfig, store: Store, tokens: Manifest, left_out: int = 0) -> None:
    """Refuse what the corpus is too small for before hours of training, not after them.

    left_out: examples that selection.near_duplicates passes over.
    """
    have = TokensView(tokens).trainable
    if not have:
        raise ValueError(
            f"prompt.max_length: none of {tokens.rows:,} examples has a response token left after "
            f"the cut at {config.prompt.max_length} tokens"
        )
    selectors = [selector_named(each.selector) for each in config.selection.contenders]
    clustered = {each.groups for each in selectors if isinstance(each, Cluster)}
    folded = bool(clustered & {*OUT_OF_FOLD})
    steps = num_steps(config.proxy, have // FOLDS if folded else have)
    if config.trains_proxy and len(checkpoint_steps(config.proxy, steps)) < 2:
        raise ValueError(
            f"proxy: a trajectory needs at least 2 checkpoints, but a training of {steps:,} "
            f"{'step' if steps == 1 else 'steps'} keeps one: lower proxy.checkpoint_every, or "
            f"train longer"
        )
    examples_for(config.selection.budget, have - left_out, store, tokens)
    wanted = config.clusters.n_clusters
    over_all = {"clusters", "clusters_of_features", "clusters_of_means", *OUT_OF_FOLD}
    if clustered & over_all and wanted > have:
        raise ValueError(f"clusters.n_clusters: {wanted:,}, but there are only {have:,} examples")


def check_content(store: Store, stage: Manifest) -> None:
    """Read all files of a stage. Damaged if one is not as its manifest lists it."""
    for _ in fold_parts(_read, stage.files, store, stage.folder):
        pass


def _read(part: Part, store: Store, folder: str) -> None:
    store.read_listed(folder, part)


def _check_export(run: Run) -> None:
    """Refuse now the formats that an example cannot be written in."""
    choice = run.config.selection
    finished = run.store.exists(run.plan.selection(choice).folder, "manifest.json")
    if choice.export and not finished:
        check_exports(run.store, run.get(run.plan.corpus), choice.export)
