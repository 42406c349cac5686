"""The stages as one straight line, from the corpus to the subset; targets.py goes on from there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.data

from s2l_ray.clustering.clusters import cluster
from s2l_ray.config import ModelConfig, PromptConfig, RunConfig, SelectionConfig
from s2l_ray.corpus.ingest import check_rejected, digest_of, ingest, read_examples
from s2l_ray.corpus.sources import fingerprint_of
from s2l_ray.corpus.tokenization import tokenize
from s2l_ray.corpus.tokenizer import prepare_tokenizer
from s2l_ray.pipeline.marks import (
    chosen_mark,
    liked,
    marks_of,
    selection_marks,
    selection_name,
    tokenizer_folder,
    tokens_mark,
)
from s2l_ray.pipeline.proxy import details_of, make_trajectories, score_before
from s2l_ray.pipeline.run import Run
from s2l_ray.selection.choose import choose, examples_for
from s2l_ray.selection.coverage import cover
from s2l_ray.selection.exports import export_row
from s2l_ray.selection.ranking import falls, features, rank
from s2l_ray.selection.selectors import SELECTORS
from s2l_ray.store import Manifest, Store
from s2l_ray.store.schemas import EXAMPLES
from s2l_ray.training.checkpoints import checkpoint_steps, num_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """A finished selection. `dataset()` goes into any Ray Data or Ray Train program."""

    store: Store
    manifest: Manifest

    @property
    def path(self) -> str:
        return self.store.address(self.manifest.folder)

    @property
    def info(self) -> dict[str, Any]:
        """selector, budget, seed, examples, tokens, by_source, by_cluster."""
        return self.manifest.info

    def dataset(self) -> ray.data.Dataset:
        """The chosen examples in rank order: example_id, source, turns, file, row, rank,
        cluster_id, reason.

        Ray Train splits a dataset into equal shards and leaves out a remainder: with W workers, up
        to W - 1 examples of an epoch, unless the budget is a multiple of W.
        """
        dataset = read_examples(self.store, self.manifest)
        dataset.context.execution_options.preserve_order = True  # of this dataset alone
        return dataset


def select(
    dataset: ray.data.Dataset | None, config: RunConfig, *, run: Run | None = None
) -> Selection:
    """Corpus to subset. `dataset` None: the corpus is what config.corpus.path names.

    Rows of a dataset have the shapes that corpus files have (instruction/output, messages, …). It
    is read twice, so it should be quick to read and the same each time: materialize() what is not.
    """
    if run is None:
        with Run.start(config) as run:
            return run.finish(lambda run: select(dataset, config, run=run))
    if "tokens" not in run.done:
        prepare(run, dataset)
    check_reachable(config, run.store, run.done["tokens"])
    _check_export(run)
    make_trajectories(run)
    return choose_subset(run, config.selection)


def prepare(run: Run, dataset: ray.data.Dataset | None = None) -> None:
    """The corpus, and its tokens for the proxy; says first what of the run is there."""
    config = run.config
    digest = None if dataset is None else digest_of(dataset, config.corpus)
    origin = fingerprint_of(config.corpus, digest, seed=config.seed)
    marks = marks_of(config, origin)
    run.announce(marks)
    examples = run.stage(
        "corpus",
        marks["corpus"],
        partial(
            ingest,
            run.store,
            config.corpus,
            dataset=dataset,
            digest=digest,
            seed=config.seed,
        ),
    )
    check_rejected(run.store, examples, config.corpus)
    tokens_of(run, "tokens", examples, config.proxy.model, config.prompt)


def check_reachable(config: RunConfig, store: Store, tokens: Manifest) -> None:
    """Refuse what the corpus is too small for before hours of training, not after them."""
    have = sum(part.stats["trainable"] for part in tokens.parts)
    if not have:
        raise ValueError(
            f"prompt.max_length: none of {tokens.rows:,} examples has a response token left after "
            f"the cut at {config.prompt.max_length} tokens"
        )
    steps = num_steps(config.proxy, have)
    if len(checkpoint_steps(config.proxy, steps)) < 2:
        raise ValueError(
            f"proxy: a trajectory needs 2 checkpoints or more, and of a training of {steps:,} "
            f"{'step' if steps == 1 else 'steps'} one is kept: lower proxy.checkpoint_every, or "
            f"train longer"
        )
    examples_for(config.selection.budget, have, store, tokens)
    wanted = config.clusters.n_clusters
    groups = SELECTORS[config.selection.selector].groups
    if groups in ("clusters", "clusters_of_features") and wanted > have:
        raise ValueError(f"clusters.n_clusters: {wanted:,}, but there are only {have:,} examples")


def _check_export(run: Run) -> None:
    """Refuse now what a chat cannot be written as, by the first rows of the corpus."""
    examples = run.done["corpus"]
    if not run.config.selection.export:
        return
    table = run.store.read_part(examples.folder, examples.parts[0], EXAMPLES.names).slice(0, 1000)
    for row in table.to_pylist():
        for shape in run.config.selection.export:
            try:
                export_row(row["turns"], row["source"], shape)
            except ValueError as error:
                raise ValueError(f"selection.export: {row['file']}:{row['row']}: {error}") from None


def ready_tokenizer(run: Run, model: ModelConfig) -> str:
    """The folder of the model's tokenizer, which is there then. ValueError for a model that cannot
    be used."""
    folder = tokenizer_folder(run.done["corpus"].fingerprint, model)
    prepare_tokenizer(run.store, model, run.done["corpus"], folder=folder)
    return folder


def tokens_of(
    run: Run, name: str, examples: Manifest, model: ModelConfig, prompt: PromptConfig
) -> Manifest:
    """The stage `name`: examples tokenised for a model, its tokenizer made ready first."""
    trained_on = run.done["corpus"].fingerprint

    def make(**stage: str) -> Manifest:
        tokenizer = ready_tokenizer(run, model)
        return tokenize(run.store, examples, tokenizer_folder=tokenizer, prompt=prompt, **stage)

    mark = tokens_mark(examples.fingerprint, trained_on, model, prompt)
    tokens = run.stage(name, mark, make)
    refused = [part.stats for part in tokens.parts if part.stats.get("refused")]
    if refused:
        count, (file, row, why) = sum(s["refused"] for s in refused), refused[0]["refused_first"]
        most = run.config.corpus.max_rejected_share
        text = f"{name}: {count:,} of {tokens.rows:,} examples ({file}:{row} for one): {why}"
        if count > most * tokens.rows:
            raise ValueError(f"{text}; more than corpus.max_rejected_share {most:.1%}")
        logger.info(f"{text}; they are left out")
    return tokens


def choose_subset(run: Run, selection: SelectionConfig) -> Selection:
    """One selector's subset, after what it draws from: clusters, ranking, another selection."""
    config, store, done = run.config, run.store, run.done
    selector, trajectories = SELECTORS[selection.selector], done["trajectories"]
    made = {name: done[name].fingerprint for name in ("tokens", "proxy", "trajectories")}
    marks = selection_marks(config, selection, made)

    def stage(name: str, make: Callable[..., Manifest], **inputs: Any) -> Manifest:
        return run.stage(name, marks[name], partial(make, store, **inputs))

    like = choose_subset(run, liked(selection)).manifest if selector.like else None
    before = None
    if selector.before:
        before = run.stage("before", marks["before"], partial(score_before, run))
    details = details_of(run, selection) if selector.details else {}
    groups = trajectories
    if selector.groups == "clusters_of_falls":
        groups = stage("falls", falls, trajectories=trajectories)
    elif selector.groups == "clusters_of_features":
        groups = stage("features", features, trajectories=trajectories, details=details["final"])
    if selector.clustered:
        groups = stage(
            selector.groups,
            cluster,
            trajectories=groups,
            config=config.clusters,
            by_source=selector.groups == "clusters_by_source",
        )
    elif selector.covers:
        groups = stage(
            f"rankings/{selection.selector}",
            cover,
            features=details["final"],
            rule=selection.selector,
            budget=examples_for(
                selection.budget, details["final"].rows, store, done["tokens"], slack=2
            ),
            seed=selection.seed,
        )
    elif selector.ranked:
        groups = stage(
            f"rankings/{selection.selector}",
            rank,
            trajectories=trajectories,
            selector=selection.selector,
            n_strata=config.clusters.n_clusters,
            before=before,
            details=details,
        )
    manifest = stage(
        f"selections/{selection_name(selection.selector, selection.seed)}",
        choose,
        config=selection,
        corpus=done["corpus"],
        tokens=done["tokens"],
        groups=groups,
        like=like,
        chosen=chosen_mark(config, selection, made),
    )
    return Selection(store, manifest)
