"""Is a selection signal or noise? Compares the run's S2L subset with those of variants of the run,
each with one thing changed; its clusters with the corpus's topics; and gradients of a target.

Equal keys would make two subsets similar whatever their groups are (selection/kinds.py), so every
variant draws with another selection seed than the run's. The variant "draw" changes nothing else.
What it shares with the run's subset beyond chance is due to the clusters, and is the most that
another variant can be expected to share. The control is loss_strata, strata of the mean loss. They
have equal sizes, so every example is equally likely: its partition can be compared with
S2L's, and its subsets share what chance gives.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from s2l_ray.analysis.laws import pair
from s2l_ray.analysis.stability import (
    agreement,
    overlap,
    purities,
    topics_by_cluster,
    topics_of,
)
from s2l_ray.analysis.theorem import Subset, theorem
from s2l_ray.config import (
    BASELINE,
    ClustersConfig,
    RunConfig,
    SelectionConfig,
    SelectorName,
)
from s2l_ray.errors import TooFew
from s2l_ray.execution.progress import about
from s2l_ray.pipeline.alarms import take_over
from s2l_ray.pipeline.copies import copies_told, left_out
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.laws import laws_of
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import check_reachable, choose_subset, prepare
from s2l_ray.pipeline.targets import finetune
from s2l_ray.pipeline.tokens import tokens_of
from s2l_ray.selection.kinds import Cluster, gives_weights
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest
from s2l_ray.store.views import CorpusView, SelectionView, StepsView, TokensView
from s2l_ray.training.checkpoints import checkpoints_of, checksums_of_checkpoints

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)

SELECTORS = ("s2l", "loss_strata")  # whose groups and subsets are compared
FEATURES = "embedding_clusters"
RECORD = ("report", "diagnostics.json")
DRAWS = 5  # of each subset whose gradient is compared with the corpus's


class Variant(NamedTuple):
    """A run with one thing changed: draw, k-means seed, n_clusters, checkpoints, proxy seed or
    proxy."""

    changed: str
    to: str
    view: Run


def diagnose(run: Run, dataset: ray.data.Dataset | None = None) -> dict[str, Any]:
    """Diagnose the run; return what report/diagnostics.json then holds.

    stability: a record per variant with changed, to, and by selector (s2l, loss_strata)
    adjusted_rand (its groups and the run's), jaccard (its subset and the run's), by_chance, spread
    (stability.Overlap), examples, and of its and the run's inclusion probabilities correlation and
    draw_noise (laws.Pair). laws: bins (inclusion.Properties), and laws (laws.Law) by selector.
    purity (None if the corpus has one topic): topics, largest (the share of the most common
    topic), column (topic or source), and by trajectories, features and random (groups with the
    trajectories' sizes) mean, quantiles, shares_K, sizes_K (stability.Purity). gradients (None
    unless asked for): rows of theorem.theorem with the step of the target's checkpoint.
    near_duplicates (if they are searched for): sentences on the groups and on each subset.
    """
    prepare(run, dataset)
    base = run.view(base_config(run.config))
    check_reachable(base.config, base.store, base.get(base.plan.tokens), left_out(base))
    numbers, topics = _numbers_of_clusters(base), _topics(base)
    base.get(base.plan.trajectories)
    stability = []
    for variant in _variants(base, numbers):
        logger.info(f"diagnose: {variant.changed} {variant.to}")
        with about(f"{variant.changed} {variant.to}"):
            subsets = {selector: _beside(base, variant.view, selector) for selector in SELECTORS}
        stability.append({"changed": variant.changed, "to": variant.to, "subsets": subsets})
    record: dict[str, Any] = {
        "stability": stability,
        "laws": _laws(base),
        "purity": _purity(base, *topics),
        "gradients": _gradients(base),
    }
    if told := copies_told(base, *(_subset(base, selector) for selector in SELECTORS)):
        record["near_duplicates"] = told
    take_over(run, base)
    run.store.write_json(record, *RECORD)
    return record


def evenly_spaced(steps: list[int], count: int) -> list[int]:
    """Return `count` of the steps, the last among them: those of a proxy that keeps so many."""
    return [steps[round(len(steps) * (i + 1) / count) - 1] for i in range(count)]


def base_config(config: RunConfig) -> RunConfig:
    """Return the settings with S2L as the selector and the features scored beside the losses.

    The run's own selector stays as a baseline if it gives weights, whose gradients are compared.
    """
    own, baselines = config.selection.selector, [*config.evaluation.baselines, FEATURES]
    if own not in baselines and gives_weights(selector_named(own)):
        baselines.insert(0, own)
    return config.model_copy(
        update={
            "selection": config.selection.model_copy(update={"selector": "s2l"}),
            "evaluation": config.evaluation.model_copy(update={"baselines": baselines}),
        }
    )


def _numbers_of_clusters(base: Run) -> list[int]:
    """Return the numbers of clusters to try; ValueError for more clusters than examples."""
    own, wanted = base.config.clusters.n_clusters, base.config.diagnose.n_clusters
    have = TokensView(base.get(base.plan.tokens)).trainable
    if wanted is None:
        wanted = [number for number in (own // 2, 2 * own) if 1 <= number <= have]
    if (most := max(wanted, default=0)) > have:
        raise ValueError(f"diagnose.n_clusters: {most:,}, but there are only {have:,} examples")
    if own in wanted:
        logger.info(f"diagnose.n_clusters: {own} is the run's own number; it is left out")
    return [number for number in wanted if number != own]


def _variants(base: Run, numbers_of_clusters: list[int]) -> Iterator[Variant]:
    """Yield the variants; those that need no proxy of their own come first."""
    config, asked = base.config, base.config.diagnose
    other = _other_draw(config)
    yield Variant("draw", str(other.selection.seed), _with_clusters(base, other, config.clusters))
    seed = _after(config.clusters.random_state)
    clusters = other.clusters.model_copy(update={"random_state": seed})
    yield Variant("k-means seed", str(seed), _with_clusters(base, other, clusters))
    for number in numbers_of_clusters:
        clusters = other.clusters.model_copy(update={"n_clusters": number})
        yield Variant("n_clusters", str(number), _with_clusters(base, other, clusters))
    steps = StepsView(base.get(base.plan.trajectories)).steps
    for count in asked.checkpoints:
        if count >= len(steps):
            logger.info(
                f"diagnose.checkpoints: {count} is not less than {len(steps)}; it is left out"
            )
        else:
            view = base.view(other)
            view.plan = view.plan.thinned(evenly_spaced(steps, count))
            yield Variant("checkpoints", f"{count} of {len(steps)}", view)
    if asked.seeds and config.seed in asked.seeds:
        logger.info(f"diagnose.seeds: {config.seed} is the run's own; it is left out")
    for changed, to, variant in proxy_variants(config):
        yield Variant(changed, to, base.view(variant))


def proxy_variants(config: RunConfig) -> Iterator[tuple[str, str, RunConfig]]:
    """Yield what is changed, to what, and the settings of the variants with a proxy of their own.
    config: of base_config."""
    other, seeds = _other_draw(config), config.diagnose.seeds
    if seeds is None:
        seeds = [_after(config.seed), _after(config.seed, 2)]
    for seed in seeds:
        if seed != config.seed:
            yield "proxy seed", str(seed), _changed(other, seed=seed)
    for name, model in config.diagnose.proxies.items():
        proxy = config.proxy.model_copy(update={"model": model})
        yield "proxy", name, _changed(other, proxy=proxy)


def _other_draw(config: RunConfig) -> RunConfig:
    changes = {"seed": _after(config.selection.seed)}
    return config.model_copy(
        update={
            "selection": config.selection.model_copy(update=changes),
            "clusters": config.clusters.model_copy(update={"stability": False}),
            "evaluation": config.evaluation.model_copy(update={"baselines": []}),
        }
    )


def _after(seed: int, by: int = 1) -> int:
    return (seed + by) % (2**32 - 1)


def _with_clusters(base: Run, config: RunConfig, clusters: ClustersConfig) -> Run:
    return base.view(_changed(config, clusters=clusters))


def _changed(config: RunConfig, **changes: Any) -> RunConfig:
    return config.model_copy(update=changes)


def _choice(view: Run, selector: str) -> SelectionConfig:
    return view.config.selection.model_copy(update={"selector": selector})


def _subset(view: Run, selector: str) -> Manifest:
    return choose_subset(view, _choice(view, selector)).manifest


def _groups(view: Run, selector: str) -> Manifest:
    return view.get(view.plan.groups(_choice(view, selector)))


def _beside(base: Run, view: Run, selector: str) -> dict[str, Any]:
    """Compare a variant's groups and subset with those of the run."""
    own, chosen = _subset(base, selector), _subset(view, selector)
    index = agreement(base.store, _groups(base, selector), _groups(view, selector))
    shared = overlap(base.store, own, chosen)._asdict()
    trajectories = base.get(base.plan.trajectories)
    apart = pair(laws_of(base, trajectories, [(base, own), (view, chosen)]).tally, 0, 1)
    return {
        "adjusted_rand": index,
        **shared,
        "examples": SelectionView(chosen).examples,
        "correlation": apart.correlation,
        "draw_noise": apart.draw_noise,
    }


def _laws(base: Run) -> dict[str, Any]:
    subsets = [(base, _subset(base, selector)) for selector in SELECTORS]
    found = laws_of(base, base.get(base.plan.trajectories), subsets)
    return {
        "bins": {name: list(bins) for name, bins in found.told_apart._asdict().items()},
        "laws": {name: asdict(found.law(place)) for place, name in enumerate(SELECTORS)},
    }


def _topics(base: Run) -> tuple[str, list[str]]:
    """Return the column of the corpus's topics, and all of them; ValueError for too many."""
    corpus = base.get(base.plan.corpus)
    if "topic" in base.config.corpus.columns:
        return "topic", topics_of(base.store, corpus, "topic")
    return "source", sorted(CorpusView(corpus).by_source)


def _purity(base: Run, column: str, topics: list[str]) -> dict[str, Any] | None:
    if len(topics) < 2:
        return None
    _subset(base, FEATURES)
    corpus, tables = base.get(base.plan.corpus), {}
    for name, selector in (("trajectories", "s2l"), ("features", FEATURES)):
        groups = _groups(base, selector)
        tables[name] = topics_by_cluster(base.store, groups, corpus, column, topics)
    return {"topics": topics, "column": column, **purities(tables, base.config.seed)}


def _gradients(base: Run) -> list[dict[str, Any]] | None:
    """Measure gradients at the checkpoints of a target trained on a random subset. A model has
    smaller gradients on what it was trained on, so all subsets here are draws with other seeds."""
    config = base.config
    if not config.diagnose.gradients:
        return None
    assert config.target is not None

    def choose(selector: SelectorName, seed: int) -> Subset:
        changes: dict[str, Any] = {"selector": selector, "seed": seed}
        choice = config.selection.model_copy(update=changes)
        selection = choose_subset(base, choice).manifest
        clustered = isinstance(selector_named(selector), Cluster)
        return Subset(selection, base.get(base.plan.groups(choice)) if clustered else None)

    seed = config.selection.seed
    trained_on = choose(BASELINE, seed).selection
    target = finetune(base, trained_on, selection_name(BASELINE, seed), seed=seed)
    tokens = base.get(
        tokens_of(
            base.plan,
            "diagnostics/tokens",
            base.plan.corpus,
            config.target.model,
            config.target_prompt or config.prompt,
            "for the target",
        )
    )
    names: list[SelectorName] = ["s2l", *config.evaluation.baselines]
    draws = [_after(seed, by) for by in range(1, DRAWS + 1)]
    subsets: dict[str, list[Subset]] = {}
    for name in names:
        try:
            subsets[name] = [choose(name, draw) for draw in draws]
        except TooFew as error:
            if name == "s2l":
                raise
            logger.info(f"evaluation.baselines: {name} is left out: {error}")
    rows = []
    checksums = checksums_of_checkpoints(target)
    for step, checkpoint in sorted(checkpoints_of(target).items()):
        logger.info(f"diagnose: gradients at the target's step {step:,}")
        found = theorem(
            base.store,
            checkpoint,
            tokens,
            _groups(base, "s2l"),
            subsets,
            made_of=checksums[step],
            workers=config.trajectories.workers,
        )
        rows += [{"step": step} | row for row in found]
    return rows
